"""The recipe of the built-in captioner: what it is trained on, how it is scored, and its model card."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import NamedTuple, Protocol

import numpy as np
from PIL.Image import Image
from tqdm import tqdm

from captionary import __version__
from captionary.understand.builtin import BuiltinCaptioner
from captionary.understand.captioner import Caption
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.scores import CaptionScores, SceneRecall, caption_scores, scene_recall
from captionary.understand.train import TrainingConfig, train_captioner
from captionary.understand.training_data import CaptionSet, photos
from captionary.understand.training_data import scenes as scene_set

__all__ = ["HELD_OUT_SEED", "TRAINING_SEED", "CaptionerScore", "Scored", "make_builtin", "publish", "score"]

TRAINING_SEED = 101
"""Seed of the first half of the scenes that the built-in captioner was trained on; the second half has the next."""
VIEWS = 6
"""Views of each photograph: as it is, mirrored, and random crops."""
HELD_OUT_SEED = 202
"""Seed of the scenes that it is scored on."""


class Scored(NamedTuple):
    """How many pictures a score is of."""

    scenes: int
    photographs: int


class CaptionerScore(NamedTuple):
    """What a captioner scores on pictures that it was not trained on."""

    scenes: SceneRecall
    """On world scenes."""
    photos: CaptionScores | None
    """On held-out photographs; None where none were given."""
    scored: Scored
    """On how many of each."""

    def to_string(self) -> str:
        """The scores, a line each."""
        of = f"{self.scored.scenes:,} scenes"
        lines = [f"{of}: {name} {share:.3f}" for name, share in self.scenes._asdict().items()]
        if self.photos is not None:
            of = f"{self.scored.photographs:,} photographs"
            lines += [f"{of}: {name} {value:.3f}" for name, value in self.photos._asdict().items()]
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """The scores as a table."""
        of = f"{self.scored.scenes:,} scenes"
        rows = [f"| {of} | {name} named | {share:.3f} |" for name, share in self.scenes._asdict().items()]
        if self.photos is not None:
            of = f"{self.scored.photographs:,} photographs"
            rows += [f"| {of} | {name} | {value:.3f} |" for name, value in self.photos._asdict().items()]
        return "\n".join(["| held-out pictures | score | value |", "|---|---|---|", *rows])


class _Captions(Protocol):
    def caption(self, images: list[Image]) -> list[Caption]: ...


def score(captioner: _Captions, photo_folder: Path | None, *, scenes: int = 1000) -> CaptionerScore:
    """Caption held-out scenes, and the ``val`` photographs of a folder where one is given, and score the captions."""
    from captionary.world.grammar import facts
    from captionary.world.scenes import draw_scenes

    held_out = scene_set(scenes, HELD_OUT_SEED)
    table = draw_scenes(np.random.default_rng(HELD_OUT_SEED), scenes)
    recall = scene_recall(_captions(captioner, held_out), [facts(table, row) for row in range(scenes)])
    if photo_folder is None:
        return CaptionerScore(recall, None, Scored(scenes, 0))
    val = photos(photo_folder, "val")
    told = caption_scores(_captions(captioner, val), val.captions)
    return CaptionerScore(recall, told, Scored(scenes, val.rows))


def make_builtin(
    photo_folder: Path, out: Path, *, scenes: int, minutes: float, start: Path | None = None
) -> CaptionerScore:
    """Train the built-in captioner, score it, and write ``out/checkpoint`` with its model card.

    Args:
        photo_folder: holds captions.csv and images/, see `photos`.
        out: work folder; a run killed there continues.
        scenes: world scenes to train on.
        minutes: wall-clock budget.
        start: the folder of a checkpoint to begin with.
    """

    config = TrainingConfig(minutes=minutes)
    half = scenes // 2
    sets = [
        [photos(photo_folder, "train", view=view) for view in range(VIEWS)],
        [scene_set(scenes - half, TRAINING_SEED), scene_set(half, TRAINING_SEED + 1)],
    ]
    model = train_captioner(sets, out, config, None if start is None else MultimodalLLM.load(start))
    history = f"{minutes:g} minutes on one CPU thread" + (
        f", from the weights of `{start.name}`" if start else ""
    )
    return publish(
        model, photo_folder, out, config, scenes=scenes, photographs=sets[0][0].rows, history=history
    )


def publish(
    model: MultimodalLLM,
    photo_folder: Path,
    out: Path,
    config: TrainingConfig,
    *,
    scenes: int,
    photographs: int,
    history: str,
) -> CaptionerScore:
    """Score a trained captioner and write ``out/checkpoint`` with its model card.

    Args:
        model: the trained model.
        photo_folder: its val photographs are scored on.
        out: work folder.
        config: what it was trained with.
        scenes: world scenes that it was trained on.
        photographs: photographs that it was trained on.
        history: how long and from what, in words, for the card.
    """
    folder = out / "checkpoint"
    model.save(folder, "")
    scored = score(BuiltinCaptioner(threads=1, checkpoint=folder), photo_folder)
    facts = {
        "version": __version__,
        "trained_at": datetime.now(UTC).date().isoformat(),
        "photographs": photographs,
        "scenes": scenes,
        "history": history,
        "training": asdict(config),
        "scores": {"scenes": scored.scenes._asdict(), "photos": scored.photos and scored.photos._asdict()},
        "scored": scored.scored._asdict(),
    }
    words = {
        "photographs": f"{photographs:,}",
        "folder": photo_folder.name,
        "scenes": f"{scenes:,}",
        "history": history,
        "scores": scored.to_markdown(),
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        "date": str(facts["trained_at"]),
        "processor": platform.processor() or platform.machine(),
    }
    card = Template((Path(__file__).parent / "model_card.md").read_text(encoding="utf-8"))
    model.save(folder, card.substitute(words), facts)
    return scored


def _captions(captioner: _Captions, data: CaptionSet, batch_size: int = 64) -> list[str]:
    said: list[str] = []
    for start in tqdm(range(0, data.rows, batch_size), desc=f"caption {data.name}", leave=False):
        images = [data.picture(row) for row in range(start, min(start + batch_size, data.rows))]
        said += [caption.text for caption in captioner.caption(images)]
    return said
