"""Compiled kernels on disk: one file per kind of arguments, whoever writes, and nothing lost with a bad one."""

import errno
import multiprocessing
import os
from collections import Counter

import numba
import numpy as np
import pytest

from captionary.compiling import compiled

KINDS = [np.arange(4, dtype=kind) for kind in (np.int64, np.int32, np.float32, np.float64)]


def total(values):
    found = 0.0
    for value in values:
        found += value
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_each_kind_of_arguments_has_a_file_and_is_read_back(folder):
    first = compiled(total)
    assert [first(values) for values in KINDS] == [6.0] * 4
    assert len(files(folder)) == 4
    assert {path.suffix for path in files(folder)} == {".nbc"}  # no index that two writers could get wrong
    later = compiled(total)
    assert [later(values) for values in reversed(KINDS)] == [6.0] * 4
    assert len(later.stats.cache_hits) == 4
    assert later.stats.cache_misses == Counter()


def answer(folder, start, kind):
    """In a process of its own; nothing is written before the other one is about to write."""
    replace, waited = os.replace, []

    def together(*paths):
        if not waited:
            waited.append(start.wait(60))
        replace(*paths)

    os.replace = together
    numba.config.CACHE_DIR = folder
    return compiled(total)(KINDS[kind])


def test_processes_that_begin_together_write_what_each_of_them_meant(folder):
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(2) as pool:
        start = manager.Barrier(2)
        said = pool.starmap(answer, [(str(folder), start, 0), (str(folder), start, 3)], chunksize=1)
    assert said == [6.0, 6.0]
    later = compiled(total)
    assert [later(KINDS[0]), later(KINDS[3])] == [6.0, 6.0]
    assert len(later.stats.cache_hits) == 2


@pytest.mark.parametrize("content", [b"", b"short", b"\x80\x05K"])
def test_a_file_that_cannot_be_read_is_written_anew(folder, content):
    compiled(total)(KINDS[0])
    (kept,) = files(folder)
    kept.write_bytes(content)
    assert compiled(total)(KINDS[0]) == 6.0
    later = compiled(total)
    assert later(KINDS[0]) == 6.0
    assert later.stats.cache_misses == Counter()


def test_a_full_disk_costs_the_cache_alone(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.os.replace", full)
    assert compiled(total)(KINDS[0]) == 6.0
    assert files(folder) == []


def test_another_source_has_another_file(folder):
    first = compiled(total)
    first(KINDS[0])
    later = compiled(total)
    later._cache._cache_file._source_stamp = "edited"
    assert later(KINDS[0]) == 6.0
    assert len(files(folder)) == 2
