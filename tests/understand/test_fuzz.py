"""More than a thousand broken, spliced and booby-trapped files: an image or a MediaError, soon, in little memory."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from tests.understand import corpus

from captionary.understand import media
from captionary.understand.media import decode, frames

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process as Linux has them")


def look(data: bytes) -> None:
    """What the product does with a picture."""
    picture = decode(data, 64)
    assert picture.mode == "RGB"
    assert 1 <= min(picture.size) <= 64 or max(picture.size) <= 16 * 64
    assert 1 <= len(frames(data, 3, 64)) <= 3


def crash(data: bytes) -> None:
    """A reader with every fault that the harness has to see."""
    import ctypes
    import time

    if data == b"segfault":
        ctypes.string_at(8)
    elif data == b"hang":
        deadline = time.process_time() + 60
        while time.process_time() < deadline:
            pass
    elif data == b"eat":
        bytearray(1 << 28)
    elif data == b"creep":
        ballast.append(bytes(range(256)) * (1 << 18))
    elif data == b"raise":
        raise KeyError("no")
    elif data == b"refuse":
        raise media.MediaError("corrupt", "x")


ballast: list[bytes] = []


def test_a_thousand_hostile_files(tmp_path):
    seeds = {**corpus.pictures(), **corpus.recordings()}
    files = [*seeds.items(), *corpus.documents().items(), *corpus.hostile(seeds, rounds=5)]
    assert len(files) >= 1500
    verdicts = corpus.survive(look, files, tmp_path, warm=corpus.pictures().values())
    assert [verdict.name for verdict in verdicts] == [name for name, _ in files]
    allowed = {"ok", *media.PERMANENT_REASONS}
    assert [verdict for verdict in verdicts if verdict.outcome not in allowed] == []
    assert max(verdict.seconds for verdict in verdicts) < 5
    outcomes = dict(verdict[:2] for verdict in verdicts)
    assert {name: outcomes[name] for name in corpus.pictures() if outcomes[name] != "ok"} == {}
    assert {outcomes[name] for name in corpus.recordings()} == {"not_an_image"}
    assert {outcomes[name] for name in corpus.documents()} == {"scriptable"}
    counts = Counter(outcomes.values())  # the mutations are neither all harmless nor all fatal
    assert min(counts["ok"], counts["corrupt"], counts["truncated"]) >= 150, counts


def test_bombs(tmp_path):
    verdicts = corpus.survive(decode, list(corpus.bombs()), tmp_path, warm=corpus.pictures().values())
    refused = {"too_many_pixels", "corrupt", "truncated"}
    harmless = {"png, at the limit", "png, pixels of a larger one", "jpeg, near the limit", "gif, frames"}
    at_the_limit = {
        verdict.name for verdict in verdicts if verdict.name.endswith(("near the limit", ", 7000"))
    }
    for verdict in verdicts:
        expected = {*refused, "ok"} if verdict.name in harmless | at_the_limit else refused
        assert verdict.outcome in expected, verdict
        assert verdict.seconds < 5, verdict
    inside = [verdict.outcome for verdict in verdicts if verdict.name.startswith("ico")]
    assert inside == ["too_many_pixels"] * 2  # by what is in the icon, before its decoder allocates
    assert len(verdicts) >= 35


def test_the_harness_sees_every_fault(tmp_path):
    names = ["fine", "segfault", "refuse", "hang", "raise", "eat", *["creep"] * 5, "last"]
    verdicts = corpus.survive(
        crash, [(name, name.encode()) for name in names], tmp_path, seconds=0.5, memory=1 << 28
    )
    found = [verdict.outcome for verdict in verdicts]
    assert found[:5] == ["ok", "crash (SIGSEGV)", "corrupt", "hang", "KeyError: 'no'"]
    assert found[5].startswith(("MemoryError", "memory"))
    assert any(outcome.startswith(("MemoryError", "memory")) for outcome in found[6:])


def test_the_corpus_is_the_same_every_time():
    seeds = {"a": bytes(range(200)), "b": b"words" * 50}
    first, second = (list(corpus.hostile(seeds, rounds=2)) for _ in range(2))
    assert first == second
    assert len(first) == 2 * 8 * 2
    assert len({data for _, data in first}) > 28
