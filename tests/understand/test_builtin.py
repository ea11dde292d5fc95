"""The shipped checkpoint: that it is small, loads from the package, and knows scenes that it was not trained on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from captionary.understand.builtin import CHECKPOINT, BuiltinCaptioner
from captionary.understand.captioner import CaptionerConfig, embeds, fingerprint_of, load_captioner
from captionary.understand.recipe import HELD_OUT_SEED
from captionary.understand.scores import scene_recall
from captionary.understand.training_data import scenes
from captionary.world.grammar import facts
from captionary.world.scenes import draw_scenes

ROWS = 48


@pytest.fixture(scope="module")
def captioner() -> BuiltinCaptioner:
    built = load_captioner(CaptionerConfig(batch_size=16, threads=1))
    assert isinstance(built, BuiltinCaptioner)
    return built


def test_it_ships_within_25_megabytes_with_its_card() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 25e6
    card = (CHECKPOINT / "MODEL_CARD.md").read_text()
    scored = json.loads((CHECKPOINT / "config.json").read_text())["facts"]["scores"]
    for name, value in [*scored["scenes"].items(), *scored["photos"].items()]:
        assert re.search(rf"{name}.*{value:.3f}", card), name
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
    together = BuiltinCaptioner(batch_size=64, threads=1).caption(images)
    alone = [captioner.caption([image])[0] for image in images]
    differing = [row for row in range(64) if alone[row] != together[row]]
    assert len(differing) <= 1, [(alone[row].text, together[row].text) for row in differing]


def test_pictures_side_by_side_are_captioned_as_one_after_the_other(captioner: BuiltinCaptioner) -> None:
    data = scenes(11, HELD_OUT_SEED)
    images = [data.picture(row) for row in range(11)]
    captions, vectors = captioner.caption_and_embed(images)
    usual = torch.get_num_threads()
    beside = load_captioner(CaptionerConfig(batch_size=4, threads=1))
    assert isinstance(beside, BuiltinCaptioner)
    beside.lanes = 3
    told, seen = beside.caption_and_embed(images)
    assert sum(one != two for one, two in zip(captions, told, strict=True)) <= 1  # a tie may fall either way
    np.testing.assert_allclose(seen, vectors, rtol=0.02, atol=0.02)
    assert torch.get_num_threads() == usual
