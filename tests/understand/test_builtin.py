"""The shipped checkpoint: that it is small, loads from the package, and knows scenes that it was not trained on."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from captionary.understand import builtin
from captionary.understand.builtin import CHECKPOINT, BuiltinCaptioner
from captionary.understand.captioner import CaptionerConfig, embeds, fingerprint_of, load_captioner
from captionary.understand.recipe import HELD_OUT_SEED
from captionary.understand.scores import CaptionScores, scene_recall
from captionary.understand.training_data import scenes
from captionary.world.grammar import facts
from captionary.world.scenes import draw_scenes

ROWS = 48


@pytest.fixture(scope="module")
def captioner() -> BuiltinCaptioner:
    built = load_captioner(CaptionerConfig(batch_size=16, threads=1, device="cpu"))
    assert isinstance(built, BuiltinCaptioner)
    return built


def test_it_ships_within_25_megabytes_with_its_card() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 25e6
    card = (CHECKPOINT / "MODEL_CARD.md").read_text()
    scored = json.loads((CHECKPOINT / "config.json").read_text())["facts"]["scores"]
    for name, value in [*scored["scenes"].items(), *scored["photos"].items()]:
        assert re.search(rf"{name}.*{value:.3f}", card), name
    assert set(scored["photos"]) == set(CaptionScores._fields)
    for what, count in json.loads((CHECKPOINT / "config.json").read_text())["facts"]["scored"].items():
        assert f"{count:,} {what} |" in card
    assert "non-commercial" in card


def test_unseen_scenes_are_named(captioner: BuiltinCaptioner) -> None:
    """On fewer scenes than the model card's."""
    data = scenes(ROWS, HELD_OUT_SEED)
    table = draw_scenes(np.random.default_rng(HELD_OUT_SEED), ROWS)
    captions, vectors = captioner.caption_and_embed([data.picture(row) for row in range(ROWS)])
    recall = scene_recall([c.text for c in captions], [facts(table, row) for row in range(ROWS)])
    assert recall.objects >= 0.93
    assert recall.places >= 0.93
    assert vectors.shape == (ROWS, captioner.vector_size)
    assert np.isfinite(vectors).all()
    assert len({c.text for c in captions}) > ROWS / 2
    assert all(c.output_tokens <= 32 and c.prompt_tokens == 33 for c in captions)


def test_a_longer_limit_is_another_captioner(captioner: BuiltinCaptioner) -> None:
    longer = BuiltinCaptioner(max_new_tokens=40, threads=1)
    assert longer.fingerprint != captioner.fingerprint
    assert longer.encoder_fingerprint == captioner.encoder_fingerprint
    assert embeds(captioner)
    assert fingerprint_of(CaptionerConfig()) != fingerprint_of(CaptionerConfig(max_new_tokens=40))


def test_a_caption_that_was_cut_has_no_end_token(captioner: BuiltinCaptioner) -> None:
    images = [scenes(2, HELD_OUT_SEED).picture(row) for row in range(2)]
    whole = captioner.caption(images)
    cut = BuiltinCaptioner(max_new_tokens=3, threads=1, device="cpu").caption(images)
    assert [caption.output_tokens for caption in cut] == [3, 3]
    lines = captioner._model.tokenizer.encode_batch([caption.text for caption in whole])
    assert [caption.output_tokens for caption in whole] == [len(line.ids) + 1 for line in lines]


def test_nothing_is_captioned_for_nothing(captioner: BuiltinCaptioner) -> None:
    captions, vectors = captioner.caption_and_embed([])
    assert captions == []
    assert vectors.shape == (0, captioner.vector_size)


def test_a_copied_checkpoint_is_the_same_captioner(captioner: BuiltinCaptioner, tmp_path: Path) -> None:
    for path in CHECKPOINT.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    threads = torch.get_num_threads()
    assert BuiltinCaptioner(checkpoint=tmp_path, threads=threads).fingerprint == captioner.fingerprint


def test_a_caption_does_not_depend_on_its_batch(captioner: BuiltinCaptioner) -> None:
    """One at a time and all at once, in the precision that this machine runs in; a tie may fall either way."""
    data = scenes(64, HELD_OUT_SEED)
    images = [data.picture(row) for row in range(64)]
    together = BuiltinCaptioner(batch_size=64, threads=1, device="cpu").caption(images)
    alone = [captioner.caption([image])[0] for image in images]
    differing = [row for row in range(64) if alone[row] != together[row]]
    assert len(differing) <= 1, [(alone[row].text, together[row].text) for row in differing]


def test_pictures_side_by_side_are_captioned_as_one_after_the_other(captioner: BuiltinCaptioner) -> None:
    data = scenes(11, HELD_OUT_SEED)
    images = [data.picture(row) for row in range(11)]
    captions, vectors = captioner.caption_and_embed(images)
    usual = torch.get_num_threads()
    beside = load_captioner(CaptionerConfig(batch_size=4, threads=1, device="cpu"))
    assert isinstance(beside, BuiltinCaptioner)
    beside.lanes = 3
    told, seen = beside.caption_and_embed(images)
    assert sum(one != two for one, two in zip(captions, told, strict=True)) <= 1  # a tie may fall either way
    np.testing.assert_allclose(seen, vectors, rtol=0.02, atol=0.02)
    assert torch.get_num_threads() == usual


def test_a_picture_that_fails_leaves_other_threads_their_number(captioner: BuiltinCaptioner) -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        captioner.lanes = 2
        with pytest.raises(AttributeError):
            captioner.caption_and_embed([None, None])  # type: ignore[list-item]
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 2
    finally:
        captioner.lanes = 1
        torch.set_num_threads(usual)


def test_two_callers_at_once_leave_the_process_its_threads(
    captioner: BuiltinCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a thread of its own, which may be older or younger than what the other one sets."""
    usual = torch.get_num_threads()
    image = scenes(1, HELD_OUT_SEED).picture(0)
    torch.set_num_threads(3)
    captioner._threads = None
    begun = []

    class Counted(builtin._Lanes):
        def __init__(self, lanes: int) -> None:
            begun.append(lanes)
            super().__init__(lanes)

    monkeypatch.setattr(builtin, "_Lanes", Counted)
    try:
        captioner.lanes = 2
        with ThreadPoolExecutor(4) as callers:
            told = list(callers.map(lambda _: captioner.caption([image] * 2), range(8)))
            assert set(callers.map(lambda _: torch.get_num_threads(), range(8))) == {3}
        assert all(len(captions) == 2 for captions in told)
        assert begun == [2]  # which all callers share
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
    finally:
        captioner.lanes = 1
        torch.set_num_threads(usual)
