"""From a finished run to a running service with trained rankers, by the verbs; replays; users who respond."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("litestar", reason="the service is a Litestar application")
pytest.importorskip("lmdb", reason="the embedded store is LMDB")
pytest.importorskip("tea_tasting", reason="experiments are analysed with tea-tasting")

from litestar.testing import TestClient
from tests.online.uploads import picture
from tests.tiny_run import copy_run, faked

from captionary.commands.export import export
from captionary.commands.ingest import ingest
from captionary.commands.serve import keys, serve
from captionary.commands.verify import verify
from captionary.errors import CaptionaryError
from captionary.online.experiments.closed_loop import ClosedLoop
from captionary.online.experiments.trained import interests_of, trained, world_of
from captionary.online.service.app import create_app
from captionary.online.service.services import Services
from captionary.online.service.settings import load_serve
from captionary.online.site import Site
from captionary.pipeline import run
from captionary.rank.served import ScoringRequest, ServingRanker
from captionary.settings import load_run
from captionary.world.traffic import SURFACES
from captionary.world.users import DEVICES

SERVE = """
run: tiny.yaml
rankers: {captions: exports/captions, ids: exports/ids}
default: captions
request_share: 1
uploads: {max_pixels: 1000}
"""


def call(command: Any, *words: object) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with rankers, two of them exported, and its store seeded."""
    root = tmp_path_factory.mktemp("whole")
    copy_run(tiny_run, root)
    (root / "serve.yaml").write_text(SERVE)
    with faked():
        call(export, root / "tiny.yaml", "--out", root / "exports/captions")
        call(export, root / "tiny.yaml", "--arm", "ids", "--out", root / "exports/ids")
        call(ingest, "seed", root / "tiny.yaml", *rankers(root)[:1])
        yield root


def rankers(root: Path) -> list[str]:
    return [f"--ranker={root / 'exports' / name}" for name in ("captions", "ids")]


def test_what_real_rankers_served_is_made_again_to_the_bit(folder: Path) -> None:
    config = folder / "tiny.yaml"
    secret = call(keys, "new", "a", "--scopes", "admin", "--file", folder / "online/keys.json").splitlines()[
        -1
    ]
    admin = {"Authorization": f"Bearer {secret}"}
    assert "version" in call(serve, folder / "serve.yaml", "--check")
    assert (
        "ids: version" in call(serve, folder / "serve.yaml", "--check").split("none of them in the store")[0]
    )
    assert call(ingest, "rows", config, *rankers(folder)[1:]) == "60 items\n"
    assert "none of them" not in call(serve, folder / "serve.yaml", "--check")
    services = Services.open(load_serve(folder / "serve.yaml"))
    other = services.ranking.rankers["ids"]
    with TestClient(create_app(services), raise_server_exceptions=False) as client:

        def rank(user: int, *items: int) -> Any:
            body = {"user": user, "items": items, "context": {"surface": "feed", "hour": 9}}
            answer = client.post("/rank", json=body | {"explain": {"items": 1}}, headers=admin)
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert rank(3, *range(60))["degraded"] == {}
        assert rank(3, 7, 900)["degraded"] == {"unknown_item": 1}
        event = {"user": 3, "item": 900, "event": "like"}
        assert client.post("/events", json={"events": [event]}, headers=admin).status_code == 202
        form = {"item": "900", "columns": json.dumps({"category": "animals"})}
        sent = client.post("/items", data=form, files=[("media", ("a", picture(4), "x/y"))], headers=admin)
        position = sent.json()["position"]
        services.store.close()  # one process opens an LMDB store once
        call(ingest, "run", config, "--drain", *rankers(folder))
        services.store.engine = Site(load_run(config)).open_store().engine
        known = client.get(f"/items/900?position={position}", headers=admin).json()
        assert known["status"] == "ok", known
        before = rank(3, 7, 900)
        assert before["degraded"] == {}
        word = client.get("/users/3/profile", headers=admin).json()["events"]["like"][0]["word"]
        client.post("/users/3/profile/mute", json={"word": word}, headers=admin)
        assert rank(3, 7, 900)["combined"] != before["combined"]
        services.ranking.trials.default = other.name
        said = rank(4, 7, 900, 901)
        assert said["model"]["version"] == other.version
        assert said["degraded"] == {"unknown_item": 1}
        client.delete("/users/4", headers=admin)
    found = json.loads(call(verify, config, *rankers(folder), "--json"))
    assert found["requests"] == 4  # those of user 4 are gone
    assert (found["unequal_lists"], found["unequal_scores"], found["largest"]) == (0, 0, 0.0)
    assert (found["scored"], found["skipped"]) == (4, {})
    found = json.loads(call(verify, config, *rankers(folder)[1:], "--json"))
    assert found["skipped"] == {"scores of another version of the ranker": 4}


def test_users_of_the_world_meet_what_a_trained_ranker_shows(folder: Path) -> None:
    chosen = load_run(folder / "tiny.yaml")
    loop = ClosedLoop(world_of(chosen), days=2, before=1, visits_per_day=30, candidates=4)
    interests = interests_of(chosen, loop)
    assert any(one["like"].mass for one in interests)
    ranker = trained(folder / "exports/captions", interests, loop.world.users)
    slate = loop.slates[1]
    scores = ranker(slate)
    assert scores.shape == slate.items.shape
    served = ServingRanker.load(folder / "exports/captions")
    user = int(slate.user[5])
    context = {
        "hour": int(slate.context.hour[5]),
        "surface": SURFACES[slate.context.surface[5]],
        "device": DEVICES[loop.world.users.device[user]],
    }
    asked = ScoringRequest(user=user, items=slate.items[5], context=context, profiles=interests[user])
    assert np.array_equal(served.score(asked)[:, served.tasks.index("time_spent")], scores[5])
    best = loop.expected(loop.show(lambda slate: slate.logit))
    assert 0 < loop.expected(loop.show(ranker)) < best
    with pytest.raises(CaptionaryError, match="task == time"):
        trained(folder / "exports/captions", interests, loop.world.users, task="time")


def test_a_finished_run_is_served_to_look_at(folder: Path, tmp_path: Path) -> None:
    run(load_run(folder / "tiny.yaml"))  # up to the report, which says whose rankers to show
    said = call(serve, "--demo", tmp_path / "demo", folder / "tiny.yaml", "--check")
    assert "ranker captions" in said
    assert "ranker control" in said
    assert "none of them in the store" not in said
    services = Services.open(load_serve(tmp_path / "demo" / "serve.yaml"))
    with TestClient(
        create_app(services), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as client:
        page = client.get("/explore/feed?user=3")
        assert page.status_code == 200, page.text
        assert "control" in page.text
        assert "captions" in page.text
