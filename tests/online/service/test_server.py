"""The verb in a process of its own, on a free loopback port: from files to answers, and to an orderly end."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.online.service.small_service import PROFILES, artefacts, make_key

from captionary.config import to_mapping
from captionary.errors import CaptionaryError
from captionary.online.request_log import read_requests
from captionary.online.service.settings import load_serve
from captionary.rank.artefact import write_artefact
from captionary.represent.tokenizers import TokenizerConfig, make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    write_artefact(artefacts()["captions"], folder / "ranker")
    tokenizer = make_tokenizer(TokenizerConfig(kind="concepts", min_df=1, max_df=1.0))
    tokenizer.fit(["red sofa", "black dog"]).save(folder / "tokenizer")
    said = {
        "rankers": {"captions": "ranker"},
        "tokenizer": "tokenizer",
        "profiles": {"event_types": list(PROFILES.event_types)},
        "request_share": 1.0,
        "port": 0,
        "limits": {"drain_seconds": 0.2},
    }
    (folder / "serve.yaml").write_text(json.dumps(said))
    (folder / "online").mkdir()
    return folder


def ask(base, path, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        base + path, data, {"Content-Type": "application/json"} | (headers or {})
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def test_from_files_to_answers_and_to_an_orderly_end(folder):
    admin = make_key(folder / "online")
    words = [
        sys.executable,
        "-c",
        "from captionary.commands.serve import serve; serve()",
        str(folder / "serve.yaml"),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    lines = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", line):
                base = found[1]
                break
        else:
            pytest.fail("".join(lines))
        assert ask(base, "/readyz")["ready"] is True
        said = ask(base, "/rank", {"user": "u1", "items": [1003, 1000]}, admin)
        assert said["degraded"] == {"no_profile": 1, "row_of_export": 2}
        assert (
            ask(base, "/events", {"events": [{"user": "u1", "item": 1003, "event": "like"}]}, admin)[
                "accepted"
            ]
            == 1
        )
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(base, "/rank", {"items": [1]})
        process.send_signal(signal.SIGTERM)
        lines += process.stderr.readlines()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    shown = "".join(lines)
    assert "ranker captions (default): version" in shown
    assert "Traceback" not in shown
    assert admin["Authorization"].removeprefix("Bearer ") not in shown
    (record,) = read_requests(folder / "online" / "requests")
    assert (record.request_id, record.user_id, record.item_ids) == (said["request_id"], "u1", [1003, 1000])
    assert record.present == [False, False]
    assert len(list((folder / "online" / "requests" / "times").glob("*.parquet"))) == 1


def test_a_second_signal_does_not_wait(start):
    import uvicorn

    from captionary.online.service.server import DrainingServer

    served = start()
    server = DrainingServer(uvicorn.Config("x:y", log_config=None), served.services, drain=60)

    class Loop:
        later = None

        def call_soon_threadsafe(self, function, *arguments):
            function(*arguments)

        def call_later(self, seconds, function):
            self.later = (seconds, function)

    server._loop = Loop()
    server.handle_exit(signal.SIGTERM, None)
    assert served.services.draining
    assert not server.should_exit
    seconds, function = server._loop.later
    assert seconds == 60
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    server.should_exit = False
    function()
    assert server.should_exit
    assert not server.force_exit
    server.handle_exit(signal.SIGTERM, None)
    assert server.force_exit


def test_places_are_those_below_the_file(folder, monkeypatch):
    config = load_serve(folder / "serve.yaml", port=9)
    assert config.port == 9
    assert config.default == "captions"
    assert config.rankers == {"captions": folder / "ranker"}
    assert config.store == str(folder / "online/store")
    assert config.keys == folder / "online/keys.json"
    assert to_mapping(config.profiles)["event_types"] == PROFILES.event_types
    said = json.loads((folder / "serve.yaml").read_text())
    other = folder / "other.yaml"
    other.write_text(
        json.dumps(said | {"store": "rediss://:${SECRET}@redis:6379/0", "log": "sqlite:a.sqlite"})
    )
    monkeypatch.setenv("SECRET", "p")
    assert load_serve(other).store == "rediss://:p@redis:6379/0"
    assert load_serve(other).log == f"sqlite:{folder / 'a.sqlite'}"
    monkeypatch.delenv("SECRET")
    with pytest.raises(CaptionaryError, match="environment variable SECRET"):
        load_serve(other)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"keys": None, "host": "0.0.0.0"}, "given where others reach 0.0.0.0"),
        ({"default": "caption"}, "did you mean that"),
        ({"rankers": {}}, "one at least"),
        ({"arms": {"e": {"a": "x"}}}, "ranker == x"),
        ({"arms": {"e": {"a": "captions"}}}, "experiments == "),
        ({"limits": {"threads": 0}}, "threads == 0"),
        ({"limits": {"wait_ms": 0}}, "wait_ms == 0"),
        ({"uploads": {"files": 0}}, "files == 0"),
        ({"hosts": "x"}, "a list"),
        ({"ports": 1}, "did you mean that"),
    ],
)
def test_mistakes_are_named_with_their_file(folder, change, part):
    said = json.loads((folder / "serve.yaml").read_text()) | change
    path = Path(folder / "wrong.yaml")
    path.write_text(json.dumps(said))
    with pytest.raises(CaptionaryError, match=part) as caught:
        load_serve(path)
    assert "wrong.yaml" in str(caught.value)


def test_a_run_gives_what_the_file_leaves_out(folder, monkeypatch):
    from captionary.online.service import settings

    monkeypatch.setattr(
        settings,
        "_of_run",
        lambda path: {
            "tokenizer": "/t",
            "profiles": {"event_types": ["like"]},
            "store": f"/{path.name}/store",
        },
    )
    path = folder / "of_run.yaml"
    path.write_text(json.dumps({"rankers": {"a": "b"}, "run": "demo.yaml", "tokenizer": "mine"}))
    config = load_serve(path)
    assert config.store == "/demo.yaml/store"
    assert config.tokenizer == folder / "mine"
