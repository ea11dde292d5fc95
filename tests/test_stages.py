import json
import multiprocessing
from pathlib import Path

import pytest

from captionary.errors import CaptionaryError
from captionary.stages import code_version, fingerprint, locked, run_stage, stage_done


def test_a_stage_is_done_once_per_fingerprint(tmp_path: Path) -> None:
    calls = []

    def work(out: Path) -> dict[str, object]:
        calls.append(1)
        (out / "result.txt").write_text(f"made {len(calls)}")
        return {"rows": 3}

    first = run_stage(tmp_path / "s", "abc", work)
    again = run_stage(tmp_path / "s", "abc", work)
    assert (first.fresh, again.fresh, len(calls)) == (True, False, 1)
    assert again.facts == {"rows": 3}
    other = run_stage(tmp_path / "s", "xyz", work)
    assert other.fresh
    assert (tmp_path / "s" / "result.txt").read_text() == "made 2"
    assert run_stage(tmp_path / "s", "xyz", work, again=lambda done: done.facts["rows"] == 3).fresh


def test_a_killed_stage_leaves_the_old_one(tmp_path: Path) -> None:
    run_stage(tmp_path / "s", "old", lambda out: (out / "a").write_text("old") and None)

    def killed(out: Path) -> None:
        (out / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "s", "new", killed)
    assert (tmp_path / "s" / "a").read_text() == "old"
    assert stage_done(tmp_path / "s", "old") is not None
    assert stage_done(tmp_path / "s", "new") is None
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("manifest", ["", "[]", "{}", json.dumps({"fingerprint": "abc"})])
def test_a_damaged_manifest_means_do_it_again(tmp_path: Path, manifest: str) -> None:
    run_stage(tmp_path / "s", "abc", lambda out: {})
    (tmp_path / "s" / "stage.json").write_text(manifest)
    assert run_stage(tmp_path / "s", "abc", lambda out: {}).fresh


def test_fingerprints_see_values_and_not_order() -> None:
    assert fingerprint(a=1, b=[2]) == fingerprint(b=[2], a=1)
    assert fingerprint(a=1) != fingerprint(a=2)
    assert code_version("stages.py") != code_version("errors.py")
    assert code_version("world") == code_version("world")


def _hold(folder: Path, held: object, release: object) -> None:
    with locked(folder):
        held.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]


def test_a_second_process_is_told_to_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, release))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(CaptionaryError, match="used by one process at a time"), locked(tmp_path):
            pass
    finally:
        release.set()
        other.join()
    with locked(tmp_path):
        pass
