"""Nothing is visible before it is complete, and nothing that others wrote is ever deleted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

import pytest

from captionary.errors import CaptionaryError
from captionary.publish import atomic_file, atomic_folder


def test_a_file_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["a.txt"]


def fail_half_way(file: IO[bytes]) -> None:
    file.write(b"half")
    file.flush()
    raise ZeroDivisionError


def test_a_failure_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        fail_half_way(file)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_published_files_and_folders_have_ordinary_permissions(tmp_path: Path) -> None:
    plain_file, plain_folder = tmp_path / "plain.txt", tmp_path / "plain"
    plain_file.touch()
    plain_folder.mkdir()
    with atomic_folder(tmp_path / "out") as folder, atomic_file(folder / "a.txt") as file:
        file.write(b"x")
    out = tmp_path / "out"
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(plain_folder.stat().st_mode)
    assert stat.S_IMODE((out / "a.txt").stat().st_mode) == stat.S_IMODE(plain_file.stat().st_mode)


def test_a_folder_appears_only_when_complete_and_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        (folder / "a.txt").write_text("1")
        assert not out.exists()
    with atomic_folder(out) as folder:
        (folder / "b.txt").write_text("2")
        assert (out / "a.txt").read_text() == "1"
    assert sorted(os.listdir(out)) == [".captionary.json", "b.txt"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        (folder / "a.txt").write_text("1")
    with (
        pytest.raises(ZeroDivisionError),
        atomic_folder(out) as folder,
        (folder / "b.txt").open("wb") as file,
    ):
        fail_half_way(file)
    assert sorted(os.listdir(out)) == [".captionary.json", "a.txt"]
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("1")
    assert (tmp_path / "out" / "a.txt").exists()


def test_a_folder_of_somebody_else_is_refused_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    refused = pytest.raises(CaptionaryError, match=r"must be a new or empty folder.*it holds thesis\.tex")
    with refused, atomic_folder(out):
        pytest.fail("the block must not run")
    assert (out / "thesis.tex").read_text() == "precious"


def test_a_folder_of_ours_to_which_somebody_added_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        (folder / "a.txt").write_text("1")
    (out / "runs").mkdir()
    (out / "runs" / "model.bin").write_text("precious")
    with pytest.raises(CaptionaryError, match=r"it holds runs/model\.bin"), atomic_folder(out):
        pass
    assert (out / "runs" / "model.bin").exists()


def test_what_is_added_while_the_block_runs_is_not_deleted(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def add_late(folder: Path) -> None:
        (folder / "a.txt").write_text("1")
        out.mkdir()
        (out / "late.txt").write_text("precious")

    with pytest.raises(CaptionaryError, match=r"it holds late\.txt"), atomic_folder(out) as folder:
        add_late(folder)
    assert os.listdir(out) == ["late.txt"]


@pytest.mark.parametrize("marker", ["", "[]", "{}", '{"files": 3}'])
def test_a_damaged_marker_counts_as_none(tmp_path: Path, marker: str) -> None:
    (tmp_path / ".captionary.json").write_text(marker)
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(CaptionaryError, match="it holds"), atomic_folder(tmp_path):
        pass


def test_a_file_in_the_way_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    in_the_way = pytest.raises(CaptionaryError, match="must be a folder; a file of that name is there")
    with in_the_way, atomic_folder(tmp_path / "file"):
        pass
    unwritable = pytest.raises(CaptionaryError, match="must be a folder that can be written")
    with unwritable, atomic_folder(tmp_path / "file" / "out"):
        pass
