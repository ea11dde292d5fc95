"""`captionary ab`, from a data set in the contract to a decision that takes effect."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from captionary.commands.ab import ab
from captionary.errors import CaptionaryError
from captionary.online.experiments.assignment import Assigner
from captionary.online.experiments.exposure import ExposureLog
from captionary.online.experiments.settings import load_experiments
from captionary.world.market import WorldConfig, make_world

CONFIG = """
salt: test
layers:
  - name: ranking
    experiments:
      - name: captions
        arms: [{name: ids, share: 0.5}, {name: joint, share: 0.5}]
        forced: {0: joint}
        covariate_days: 7
        monitoring: {days: 7, burn_in_users: 20}
        metrics:
          - {name: likes, of: like, role: primary}
          - {name: shares a view, of: share, per: impressions}
          - {name: latency, of: latency_ms, per: requests, role: guardrail, better: less, margin: 0.1}
"""


def ask(*words: object) -> Result:
    return CliRunner().invoke(ab, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world's log whose second week was an experiment, with a slow joint arm."""
    root = tmp_path_factory.mktemp("ab")
    make_world(WorldConfig.tiny(users=400, impressions=12_000, pictures=False), root / "world")
    (root / "experiments.yaml").write_text(CONFIG)
    assigner = Assigner(load_experiments(root / "experiments.yaml"))
    shown = pl.concat(pl.read_parquet(path) for path in (root / "world" / "impressions").glob("*.parquet"))
    begin = shown["timestamp"].min() + timedelta(days=8)
    shown = shown.filter(pl.col("timestamp") >= begin).sort("timestamp").head(5000)
    arms = []
    with ExposureLog(root / "exposures") as log:
        for user, at in shown.select("user_id", "timestamp").iter_rows():
            found = assigner.assign(user, "captions", at)
            log.log(user, found, at=at)
            arms.append(found.arm)
    rng = np.random.default_rng(0)
    latency = rng.gamma(4, 5, len(arms)) * np.where(np.array(arms) == "joint", 2.0, 1.0)
    requests = shown.select("user_id", "timestamp").with_columns(latency_ms=latency, error=pl.lit(False))
    requests.write_parquet(root / "requests.parquet")
    return root


def options(folder: Path, *, requests: bool = True) -> list[object]:
    words = [folder / "experiments.yaml", "captions", "--exposures", folder / "exposures"]
    words += ["--log", folder / "world"]
    return [*words, *(["--requests", folder / "requests.parquet"] if requests else [])]


class TestPlan:
    def test_the_papers_effect(self) -> None:
        out = ask("plan", "--effect", 0.0002, "--users-per-day", 1_000_000).output
        assert "392,443,987 users an arm" in out
        assert "cannot be seen with this traffic" in out

    def test_from_an_offline_gain(self) -> None:
        out = ask(
            "plan", "--gain", 0.0035, "--users-per-day", 1e6, "--ramp", "0:0.01,2:1", "--format", "json"
        ).output
        found = json.loads(out)
        assert found["effect"] == pytest.approx(0.0002)
        assert found["traffic"]["ramp"] == [[0.0, 0.01], [2.0, 1.0]]

    def test_from_a_log(self, folder: Path) -> None:
        words = ["--log", folder / "world", "--of", "like", "--effect", 0.05, "--format", "json"]
        found = ask("plan", *words)
        assert "users in 14 days" in found.stderr
        plan = json.loads(found.stdout)
        assert 0 < plan["rho"] < 1
        assert 0 < plan["cv"] < 2
        ratio = json.loads(ask("plan", *words, "--per", "impressions").stdout)
        assert ratio["users"] < plan["users"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--effect", "0.1"], "--users-per-day"),
            (["--users-per-day", "10"], "or an offline gain"),
            (["--effect", "0.1", "--users-per-day", "10", "--ramp", "1"], "DAY:SHARE"),
            (["--evidence", "nowhere", "--users-per-day", "10"], "a run's folder or an evidence.json"),
            (["--evidence", "nowhere", "--gain", "0.1"], "absent where --evidence is given"),
        ],
    )
    def test_mistakes(self, words: list[str], message: str) -> None:
        found = ask("plan", *words)
        assert isinstance(found.exception, CaptionaryError)
        assert message in str(found.exception)


class TestAssign:
    def test_users(self, folder: Path) -> None:
        out = ask("assign", folder / "experiments.yaml", 0, 1).output.splitlines()
        assert out[0] == "0  captions  joint  (forced)"
        arm = Assigner(load_experiments(folder / "experiments.yaml")).assign(1, "captions").arm
        assert out[1] == f"1  captions  {arm}  (assigned)"

    def test_a_table(self, folder: Path) -> None:
        out = ask("assign", folder / "experiments.yaml", "--table", folder / "requests.parquet").output
        assert out.startswith("captions: ids ")

    def test_mistakes(self, folder: Path) -> None:
        config = folder / "experiments.yaml"
        assert "or --table" in str(ask("assign", config).exception)
        assert "user_id" in str(ask("assign", config, "--table", config).exception)
        assert "captions" in str(ask("assign", config, 1, "--experiment", "capt").exception)


class TestAnalyse:
    def test_all_of_it(self, folder: Path) -> None:
        found = json.loads(ask("analyse", *options(folder), "--format", "json").output)
        assert [metric["metric"] for metric in found["metrics"]] == ["likes", "shares a view"]
        assert found["forced"] == 1
        assert found["guardrails"][0]["state"] == "broken"
        assert found["guardrails"][0]["harm"] == pytest.approx(1.0, abs=0.15)
        assert "guardrail latency is broken" in ask("analyse", *options(folder)).output

    def test_without_the_request_log(self, folder: Path) -> None:
        found = ask("analyse", *options(folder, requests=False))
        assert "requests == (absent)" in str(found.exception)
        assert "metric latency of experiment captions" in str(found.exception)


class TestMonitor:
    def test_harm_is_stopped_and_the_stop_takes_effect(self, folder: Path, tmp_path: Path) -> None:
        record = tmp_path / "decisions.jsonl"
        out = ask("monitor", *options(folder), "--decisions", record).output
        assert out.startswith("captions, joint: STOP: HARM. Day 1.0: guardrail latency is worse in joint")
        after = ask("assign", folder / "experiments.yaml", 1, "--decisions", record).output
        assert after == "1  captions  -  (stopped)\n"

    def test_machines_and_documents_can_read_it(self, folder: Path) -> None:
        until = ["--until", "2025-01-16T00:00:00Z"]
        found = json.loads(ask("monitor", *options(folder), *until, "--format", "json").output)
        assert found[0]["action"] == "stop: harm"
        assert (
            "**captions, joint: stop: harm.**"
            in ask("monitor", *options(folder), "--format", "markdown").output
        )
