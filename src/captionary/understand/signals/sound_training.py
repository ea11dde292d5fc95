"""Train the built-in sound tagger, and measure it on clips that it has not heard.

A ridge regression on the features of `sound_tagger.py`, standardised, each level and kind of pooling with the same
weight, from every clip and four changed copies of it (pitch, tempo, colour and noise of the spectrogram). Its
probabilities are sharpened so that they fit on the clips held out.

How clips are held out decides what the figure means. ESC-50 cuts several clips from one recording, and several
recordings of one session have neighbouring numbers; the three ways here, from lenient to strict, are `clip`,
`recording` and `session` (recordings of one class whose numbers differ by at most 100 stay together).
"""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from captionary.errors import bad_value
from captionary.understand.signals.sound_tagger import FEATURES, SpectrogramEncoder, log_mel
from captionary.understand.signals.video import read_sound

__all__ = ["Clips", "HeldOut", "evaluate", "read_clips", "save_tagger"]

FOLDS = 5
_COPIES = 5
_RIDGE = 0.3
_BLOCKS = (280, 280, 560, 560, 784, 784)
"""Features of each level and kind of pooling, in their order."""
HoldOut = Literal["clip", "recording", "session"]
Float = npt.NDArray[np.float64]


class Clips(NamedTuple):
    """Labelled sounds and their features."""

    features: Float
    """[copies, N, 3248]; the first copy is the clip itself."""
    label: npt.NDArray[np.int64]
    """[N], index into `labels`."""
    recording: npt.NDArray[np.int64]
    """[N], number of the recording that the clip was cut from."""
    labels: tuple[str, ...]


class HeldOut(NamedTuple):
    """How well clips are told apart that a tagger has not heard."""

    top1: float
    """Share of clips whose likeliest label is theirs, mean over the repetitions."""
    top5: float
    """Share of clips whose label is among the five likeliest."""
    sharpness: float
    """Factor of the linear map's outputs at which their probabilities fit best."""
    said: float
    """Share of clips of which a tagger says something: one label has probability >= 0.5."""
    right: float
    """Share of those for which it is right."""
    chance: float
    """Top-1 of a guess."""


def read_clips(folder: Path, *, copies: int = _COPIES, encoder: SpectrogramEncoder | None = None) -> Clips:
    """Read `labels.csv` (file, kind, label; rows of kind `event`) and the files below `audio/`.

    Args:
        folder: with the file names of ESC-50, `FOLD-RECORDING-TAKE-CLASS`.
        copies: features are made of each clip and copies - 1 changed copies, >= 1.
        encoder: default: the first blocks of the pretrained image encoder, rounded to float16 as they are shipped.

    Raises:
        CaptionaryError: a file is missing, or cannot be read, or the pretrained encoder is absent.
    """
    table = folder / "labels.csv"
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("kind") == "event"]
        names = sorted({row["label"] for row in rows})
        recording = [int(row["file"].split("-")[1]) for row in rows]
        contents = [(folder / "audio" / row["file"]).read_bytes() for row in rows]
    except (OSError, KeyError, IndexError, ValueError) as error:
        rule = "a folder with labels.csv (file, kind, label) and audio/, files named as in ESC-50"
        raise bad_value("sounds", str(folder), rule, where=" ".join(str(error).split())[:200]) from None
    if len(names) < 2:
        raise bad_value("labels", len(names), ">= 2", where=str(table))
    encoder = encoder or pretrained_blocks()
    mels = [
        log_mel(read_sound(data, name=row["file"]).samples) for data, row in zip(contents, rows, strict=True)
    ]
    rng = np.random.default_rng(0)
    features = [[encoder(mel if copy == 0 else _changed(mel, rng)) for mel in mels] for copy in range(copies)]
    return Clips(
        features=np.asarray(features, np.float64),
        label=np.array([names.index(row["label"]) for row in rows]),
        recording=np.array(recording),
        labels=tuple(name.replace("_", " ") for name in names),
    )


def pretrained_blocks() -> SpectrogramEncoder:
    """The image encoder's first blocks, as they are shipped.

    Raises:
        CaptionaryError: the package with its weights is absent.
    """
    from captionary.understand.encoder import pretrained_encoder

    return SpectrogramEncoder(pretrained_encoder()).half().float().eval()


def evaluate(clips: Clips, hold_out: HoldOut = "recording", *, repeats: int = 3) -> HeldOut:
    """Five-fold cross-validation, repeated with other folds: all is fitted without the clips that it is tried on.

    Args:
        clips: labelled sounds.
        hold_out: what stays together on one side: a clip, a recording, or a session.
        repeats: >= 1.
    """
    groups = _groups(clips, hold_out)
    truth = clips.label
    logits = np.zeros((repeats, len(truth), len(clips.labels)))
    for repeat in range(repeats):
        fold = _folds(truth, groups, np.random.default_rng(repeat))
        for held in range(FOLDS):
            weights, bias = _fit(clips, np.flatnonzero(fold != held))
            tried = np.flatnonzero(fold == held)
            logits[repeat, tried] = clips.features[0, tried] @ weights + bias
    order = np.argsort(-logits, axis=2, kind="stable")
    found = order == truth[None, :, None]
    sharpness = min(np.geomspace(0.5, 20, 60), key=lambda factor: _surprise(logits * factor, truth))
    probable = _softmax(logits * sharpness).max(2) >= 0.5
    return HeldOut(
        top1=float(found[..., 0].mean()),
        top5=float(found[..., :5].any(2).mean()),
        sharpness=float(sharpness),
        said=float(probable.mean()),
        right=float(found[..., 0][probable].mean()) if probable.any() else 0.0,
        chance=float(np.bincount(truth).max() / len(truth)),
    )


def save_tagger(clips: Clips, encoder: SpectrogramEncoder, out: Path, measured: HeldOut) -> None:
    """Fit to all clips and write config.json and model.safetensors (float16) into `out`."""
    weights, bias = _fit(clips, np.arange(len(clips.label)))
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"encoder.{k}": v.numpy().astype(np.float16) for k, v in encoder.state_dict().items()}
    tensors["map"] = weights.astype(np.float32)
    tensors["bias"] = bias.astype(np.float32)
    save_file(tensors, out / "model.safetensors")
    config = {"labels": clips.labels, "sharpness": round(measured.sharpness, 4)}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _fit(clips: Clips, train: npt.NDArray[np.int64]) -> tuple[Float, Float]:
    """Ridge regression on ±1 of each class, solved in the space of clips; the standardisation is folded in."""
    mean, scale = clips.features[0, train].mean(0), clips.features[0, train].std(0) + 1e-3
    level = np.concatenate([np.full(size, 1 / np.sqrt(size)) for size in _BLOCKS]) / scale
    x = ((clips.features[:, train] - mean) * level).reshape(-1, FEATURES)
    copies = len(clips.features)
    y = np.tile(np.eye(len(clips.labels))[clips.label[train]] * 2 - 1, (copies, 1))
    centre, base = x.mean(0), y.mean(0)
    x = x - centre
    dual = np.linalg.solve(x @ x.T + _RIDGE * copies * np.eye(len(x)), y - base)
    weights = x.T @ dual
    return weights * level[:, None], base - (centre + mean * level) @ weights


def _groups(clips: Clips, hold_out: HoldOut) -> npt.NDArray[np.int64]:
    if hold_out == "clip":
        return np.arange(len(clips.label))
    groups = clips.recording.copy()
    if hold_out == "session":
        for label in range(len(clips.labels)):
            members = np.flatnonzero(clips.label == label)
            members = members[np.argsort(clips.recording[members], kind="stable")]
            for before, after in pairwise(members):
                if clips.recording[after] - clips.recording[before] <= 100:
                    groups[after] = groups[before]
    return groups


def _folds(
    label: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """A fold for each clip: groups stay whole, and each class is spread over the folds as evenly as they allow."""
    fold = np.zeros(len(label), np.int64)
    total = np.zeros(FOLDS)
    placed: dict[int, int] = {}
    for k in rng.permutation(label.max() + 1):
        of_class = np.zeros(FOLDS)
        names, sizes = np.unique(groups[label == k], return_counts=True)
        for at in np.lexsort((rng.random(len(names)), -sizes)):
            name = int(names[at])
            if name not in placed:
                tie = rng.random(FOLDS)
                placed[name] = int(np.lexsort((tie, total, of_class))[0])
            of_class[placed[name]] += sizes[at]
            total[placed[name]] += sizes[at]
    for i, group in enumerate(groups):
        fold[i] = placed[int(group)]
    return fold


def _changed(mel: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Another pitch (up to 5 bands), tempo (15 %), beginning, colour (8 dB) and noise floor (-40 to -80 dB)."""
    moments, bands = mel.shape
    when = np.clip(np.arange(moments) * rng.uniform(0.85, 1.15), 0, moments - 1)
    pitch = np.clip(np.arange(bands) + rng.uniform(-5, 5), 0, bands - 1)
    t, b = when.astype(int), pitch.astype(int)
    t2, b2 = np.minimum(t + 1, moments - 1), np.minimum(b + 1, bands - 1)
    u, v = (when - t)[:, None], (pitch - b)[None]
    lower = mel[t][:, b] * (1 - v) + mel[t][:, b2] * v
    upper = mel[t2][:, b] * (1 - v) + mel[t2][:, b2] * v
    moved = np.roll(lower * (1 - u) + upper * u, rng.integers(moments), axis=0)
    moved = moved + np.linspace(-1, 1, bands) * rng.uniform(-0.4, 0.4)
    floor = moved.max() - rng.uniform(4, 8)
    noisy = np.logaddexp(moved * np.log(10), floor * np.log(10)) / np.log(10)
    return np.asarray(noisy, np.float32)


def _softmax(logits: Float) -> Float:
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    result: Float = odds / odds.sum(-1, keepdims=True)
    return result


def _surprise(logits: Float, truth: npt.NDArray[np.int64]) -> float:
    """Mean negative log-probability of the truth."""
    chances = _softmax(logits)[:, np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(chances, 1e-12)).mean())
