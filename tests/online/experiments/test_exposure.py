"""The exposure log: nothing lost, nothing counted twice, nobody in two arms."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from captionary.errors import CaptionaryError
from captionary.online.experiments.assignment import Assignment
from captionary.online.experiments.exposure import ExposureLog, compact, first_exposures, read_exposures

ARMS = ("control", "treatment")
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def arm(name: str | None, reason: str = "assigned") -> Assignment:
    return Assignment("x", name, reason)  # type: ignore[arg-type]


def test_first_exposures_are_what_counts(tmp_path: Path) -> None:
    with ExposureLog(tmp_path) as log:
        assert log.log(1, arm("control"), at=MONDAY + timedelta(hours=2))
        assert not log.log("1", arm("control"), at=MONDAY)  # this process wrote it before
        assert not log.log(2, arm(None, "holdout"))
        assert log.log("é", arm("treatment"), at=MONDAY, trigger="feed")
    with ExposureLog(tmp_path) as other:
        assert other.log(1, arm("control"), at=MONDAY + timedelta(hours=1))
    found = first_exposures(read_exposures(tmp_path), "x", ARMS)
    assert found.users.to_list() == ["é", "1"]
    assert found.arm.tolist() == [1, 0]
    hour = 3_600_000_000
    assert found.first.tolist() == [int(MONDAY.timestamp()) * 10**6, int(MONDAY.timestamp()) * 10**6 + hour]
    assert (found.repeated, found.contaminated, found.forced) == (1, 0, 0)
    assert found.counts == {"control": 1, "treatment": 1}


def test_contaminated_and_forced_users_are_left_out(tmp_path: Path) -> None:
    with ExposureLog(tmp_path) as log:
        for user in range(8):
            log.log(user, arm(ARMS[user % 2]))
        log.log(3, arm("control"))
        log.log("qa", arm("treatment", "forced"))
    found = first_exposures(read_exposures(tmp_path, "x"), "x", ARMS)
    assert sorted(found.users) == ["0", "1", "2", "4", "5", "6", "7"]
    assert (found.contaminated, found.forced) == (1, 1)
    assert found.contamination == pytest.approx(1 / 8)


def test_segments_are_sealed_when_full(tmp_path: Path) -> None:
    with ExposureLog(tmp_path, segment_rows=10) as log:
        for user in range(25):
            log.log(user, arm("control"))
        assert len(list(tmp_path.glob("*.jsonl"))) == 2
        assert read_exposures(tmp_path).height == 25  # the open one is read too
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    assert not list(tmp_path.glob("*.open"))


def test_old_segments_are_sealed(tmp_path: Path) -> None:
    with ExposureLog(tmp_path, segment_seconds=1e-9) as log:
        for user in range(3):
            log.log(user, arm("control"))
        assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_compaction_keeps_first_exposures_and_nothing_else(tmp_path: Path) -> None:
    for hours in (3, 1, 2):
        with ExposureLog(tmp_path) as log:
            for user in range(5):
                log.log(user, arm(ARMS[user % 2]), at=MONDAY + timedelta(hours=hours + user))
    before = first_exposures(read_exposures(tmp_path), "x", ARMS)
    compact(tmp_path)
    with ExposureLog(tmp_path) as log:
        log.log(0, arm("control"), at=MONDAY)
    assert compact(tmp_path) is not None
    assert compact(tmp_path) is None
    assert {path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".")} == {".parquet"}
    after = first_exposures(read_exposures(tmp_path), "x", ARMS)
    assert (after.repeated, before.repeated) == (0, 10)
    assert after.users.to_list() == before.users.to_list()
    assert after.first[1:].tolist() == before.first[1:].tolist()
    assert after.first[0] == before.first[0] - 3_600_000_000


def test_compaction_keeps_contamination(tmp_path: Path) -> None:
    with ExposureLog(tmp_path) as log:
        for name in ARMS:
            log.log("both", arm(name))
        log.log("one", arm("control"))
    compact(tmp_path)
    assert first_exposures(read_exposures(tmp_path), "x", ARMS).contaminated == 1


def test_a_killed_process_loses_nothing_that_was_logged(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from captionary.online.experiments.assignment import Assignment
from captionary.online.experiments.exposure import ExposureLog
log = ExposureLog(Path(sys.argv[1]))
for user in range(1000):
    log.log(user, Assignment("x", "control", "assigned"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.glob("*.open")
    with left.open("ab") as file:
        file.write(b'{"user_id": "torn')  # the power went in the middle of a line
    assert read_exposures(tmp_path)["user_id"].n_unique() == 1000


def test_threads_share_a_log(tmp_path: Path) -> None:
    with ExposureLog(tmp_path, segment_rows=50) as log:

        def write(offset: int) -> None:
            for user in range(200):
                log.log(user + offset, arm("control"))

        threads = [threading.Thread(target=write, args=(offset,)) for offset in (0, 100, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(read_exposures(tmp_path)["user_id"].cast(pl.Int64)) == list(range(400))


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="a folder of exposure segments"):
        read_exposures(tmp_path / "none")
    with pytest.raises(CaptionaryError, match="one user at least"):
        first_exposures(read_exposures(tmp_path), "x", ARMS)
    with ExposureLog(tmp_path) as log:
        log.log(1, arm("third"))
    with pytest.raises(CaptionaryError, match="arm == third, must be one of control, treatment"):
        first_exposures(read_exposures(tmp_path), "x", ARMS)
    (tmp_path / "bad.jsonl").write_text('{"user_id": 1}\n')
    with pytest.raises(CaptionaryError, match=r"bad\.jsonl, line 1"):
        read_exposures(tmp_path)
