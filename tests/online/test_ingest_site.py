"""A finished run goes live: its store is seeded, uploads are worked off as in the run, requests are done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

pytest.importorskip("lmdb", reason="the embedded store is LMDB")

from tests.online.uploads import picture, upload
from tests.understand.fake import FakeCaptioner

from captionary.commands.ingest import ingest
from captionary.commands.verify import verify
from captionary.errors import CaptionaryError
from captionary.online.log import EVENTS, MEDIA, EventMessage, event_draft, media_draft
from captionary.online.request_log import RequestLog, RequestRecord, served
from captionary.online.site import Site
from captionary.pipeline import run
from captionary.represent.profiles import snapshot
from captionary.represent.tables import read_item_tokens
from captionary.settings import load_run

YAML = """
name: tiny
data:
  world: {users: 20, items: 24, impressions: 300, days: 8, seed: 3}
runs: RUNS
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    path = folder / "run.yaml"
    path.write_text(YAML.replace("RUNS", str(folder / "runs")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "captionary.understand.captioner.load_captioner", lambda *_: FakeCaptioner(vector_size=4)
        )
        run(load_run(path), "tokenize")
    return path


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "captionary.understand.captioner.load_captioner", lambda *_: FakeCaptioner(vector_size=4)
    )


def call(command: Any, *words: object) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_a_run_is_seeded_and_goes_on_live(config: Path) -> None:
    site = Site(load_run(config))
    assert call(ingest, "seed", config).startswith("30 items, ")
    with pytest.raises(CaptionaryError, match="empty before it is seeded"):
        call(ingest, "seed", config)
    ids, tokens = read_item_tokens(site.config.folder / "tokens" / "A" / "item_tokens.parquet")
    events = site.dataset.events()
    last = 1 + max(time.value for time in events["timestamp"])
    with site.open_store() as store:
        users = store.user_ids()
        want = snapshot(events, last, ids, tokens, site.profiles, site.tokenizer.idf())
        assert len(users) > 3
        for row, user in enumerate(want.user_ids.to_pylist()):
            found = store.profile(user, last)
            for event, made in want.profiles.items():
                assert found[event].token_ids.tolist() == made.lists.row(row).tolist()
                assert found[event].mass == float(made.mass[row])
        first = site.dataset.items().to_pylist()[0]
        record = store.item(first["item_id"])
        assert record is not None
        assert record.columns.keys() == {*site.columns.categorical, *site.columns.numeric}
    log, spool = site.open_log(), site.spool()
    user, item = users[0], ids.to_pylist()[0]
    log.append(
        MEDIA,
        [
            media_draft(upload(10**6, spool.put(picture(1)), columns=dict(record.columns)), "new"),
            media_draft(upload(10**6 + 1, spool.put(b"junk")), "bad"),
        ],
    )
    liked = [EventMessage(user_id=user, item_id=n, event="like", timestamp=last) for n in (item, 10**6)]
    log.append(EVENTS, [event_draft(event, f"{event.item_id}") for event in liked])
    assert "1 items, 1 failed, 0 held back, 2 events" in call(ingest, "run", config, "--drain")
    status = call(ingest, "status", config)
    assert "media: 0 waiting; 1 dead letters" in status
    assert "not_an_image\tbad" in call(ingest, "dead", config)
    assert call(ingest, "revive", config) == "1 revived\n"
    requests = RequestLog(site.requests_folder, share=1.0)
    with site.open_store() as store:
        read = store.read(user, [], last + 5)
        assert read.lists["like"].mass > 1
    requests.append(
        RequestRecord(
            request_id="r", user_id=user, as_of=last + 5, sequence=read.sequence, version="v", item_ids=[],
            scores=[], lists=served(read.lists),
        )
    )  # fmt: skip
    requests.close()
    found = json.loads(call(verify, config, "--json"))
    assert (found["requests"], found["unequal_lists"]) == (1, 0)
    (file,) = site.requests_folder.glob("*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"as_of":', b'"as_of":1'))
    result = CliRunner().invoke(verify, [str(config)])
    assert result.exit_code == 1
    assert "lists differ" in result.output


def test_ingest_says_of_a_picture_what_the_run_said(config: Path) -> None:
    site = Site(load_run(config), store=str(config.parent / "other"), log=str(config.parent / "other.sqlite"))
    captions = pq.read_table(site.config.folder / "captions" / "captions.parquet").to_pylist()
    items = site.dataset.items().to_pylist()
    chosen = [row for row, told in enumerate(captions) if told["normalized"]][:3]
    spool, log = site.spool(), site.open_log()
    for row in chosen:
        data = (site.dataset.root / items[row]["media"][0]).read_bytes()
        log.append(MEDIA, [media_draft(upload(row, spool.put(data)), f"{row}")])
    call(ingest, "run", config, "--drain", "--store", site.store_url, "--log", site.log_url)
    with site.open_store() as store:
        for row in chosen:
            record = store.item(row)
            assert record is not None
            assert (record.caption, record.normalized) == (
                captions[row]["caption"],
                captions[row]["normalized"],
            )


def test_a_run_without_tokens_has_no_live_side(config: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="fit the tokenizer again"):
        Site(load_run(_renamed(config, tmp_path)))


def _renamed(config: Path, folder: Path) -> Path:
    """The same data under another run, of which nothing is made."""
    text = config.read_text().split("data:")[0].replace("tiny", "nothing")
    root = load_run(config).folder / "data" / "world"
    path = folder / "run.yaml"
    path.write_text(f"{text}data: {{path: {root}}}\nruns: {folder}\n")
    return path
