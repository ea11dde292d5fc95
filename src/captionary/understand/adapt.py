"""Adapt the built-in captioner to a catalogue: fine-tune it on text that the catalogue has for some of its items.

    captionary captioner adapt DATASET --text genres --out DIR

A caption of an adapted captioner opens with what the catalogue would say of the item, and goes on with what the
captioner said of the picture before, so that nothing it knew is lost:

    drama romance a man in a suit stands beside a woman

Only items of the evaluation's training side are learnt from. The words of a list (genres) are shown in another order in
each step: the first that is said is then the one that the captioner believes most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from tqdm import tqdm

from captionary import __version__
from captionary.errors import bad_value, nearest
from captionary.understand.adapt_lora import LoraSettings, adapt_lora
from captionary.understand.builtin import CHECKPOINT, BuiltinCaptioner
from captionary.understand.captioner import Captioner
from captionary.understand.hf import HfCaptioner
from captionary.understand.media import MediaError, open_image
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.named import (
    AveragePrecision,
    average_precision,
    drawn_scores,
    ridge_probe,
    said_scores,
)
from captionary.understand.train import LEAD, TrainingConfig, train_captioner
from captionary.understand.training_data import CaptionSet, clean, viewed

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "AdaptConfig",
    "Adapted",
    "Catalogue",
    "adapt",
    "adapt_large",
    "catalogue_of",
    "readable",
    "score_words",
]

_ORDERS = 6
"""Orders in which the words of a list are shown."""
_TOGETHER = 64
_DRAWN = 32
"""Captions drawn of each held-out picture, to tell how sure the captioner is of each word."""
_UNKNOWN = 0.05
"""Share of unknown tokens above which a text is not for this tokenizer."""


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How a captioner is adapted."""

    minutes: float = 10.0
    """Wall-clock budget of training."""
    passes: float = 9.0
    """Times that each item is learnt from, at most, > 0: with more, a small catalogue is learnt by heart."""
    pictures: int = 24
    """Pictures a step."""
    learning_rate: float = 3e-4
    encoder_rate: float = 0.15
    """Learning rate of the encoder's upper stages as a share of the rest's."""
    lead: float = 4.0
    """Weight of a token of the catalogue's text beside one of the captioner's own caption, > 0."""
    words: int = 16
    """Words of a running text (a plot) that are learnt."""
    own: bool = True
    """Whether the captioner's own caption follows the text."""
    views: int = 4
    """Views of each picture: as it is, mirrored, random crops."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.passes > 0:
            raise bad_value("passes", self.passes, "> 0")


class Catalogue(NamedTuple):
    """Pictures of a catalogue's items with the text that is to be learnt, or compared with."""

    item_ids: list[Any]
    paths: list[Path]
    words: list[list[str]]
    """Per item the entries of its list columns, cleaned."""
    running: list[str]
    """Per item its running text, cleaned."""


class Adapted(NamedTuple):
    """What adapting gave, on items that it was not shown."""

    before: AveragePrecision | None
    """Of the words of the list columns in captions of the captioner as it was; None without list columns."""
    after: AveragePrecision | None
    probe: AveragePrecision | None
    """A linear probe on the same encoder's features: the upper reference."""
    training_items: int
    held_out_items: int
    drawn: AveragePrecision | None = None
    """Of the adapted captioner by the share of captions, drawn from it, that say a word; None where none were drawn."""

    def to_markdown(self) -> str:
        """The average precisions as a table: a row a word, the micro average last."""
        if self.before is None or self.after is None or self.probe is None:
            return ""
        columns = {
            "as it was": self.before,
            "adapted": self.after,
            "adapted, drawn": self.drawn,
            "linear probe": self.probe,
        }
        known = {name: found for name, found in columns.items() if found is not None}
        lines = ["| word | items | " + " | ".join(known) + " |", "|---|---|" + "---|" * len(known)]
        for i, word in enumerate(self.after.words):
            row = [f"{each.values[i]:.3f}" for each in known.values()]
            lines.append(f"| {word} | {self.after.counts[i]} | " + " | ".join(row) + " |")
        micro = [f"{each.micro:.3f}" for each in known.values()]
        return "\n".join([*lines, f"| **micro** | {sum(self.after.counts)} | " + " | ".join(micro) + " |"])


def adapt(
    training: Catalogue,
    held_out: Catalogue,
    out: Path,
    config: AdaptConfig,
    *,
    start: Path = CHECKPOINT,
    name: str = "catalogue",
    columns: Sequence[str] = (),
) -> Adapted:
    """Fine-tune the captioner of `start` on `training`, score it on `held_out`, write ``out/checkpoint`` with its card.

    Args:
        training: at least as many items as `config.pictures`.
        held_out: items to score on; never learnt from.
        out: work folder; a run killed there continues.
        config: see AdaptConfig.
        start: a checkpoint folder.
        name: of the data set, for the card.
        columns: names of the text columns, for the card.

    Raises:
        CaptionaryError: too few items, or a text that this captioner's tokenizer cannot spell.
    """
    if len(training.paths) < config.pictures:
        raise bad_value(
            "training items with text and a picture", len(training.paths), f">= {config.pictures}", where=name
        )
    teacher = BuiltinCaptioner(threads=0, checkpoint=start)
    own = captions_of(teacher, training.paths) if config.own else [""] * len(training.paths)
    rng = np.random.default_rng(config.seed)
    running = [" ".join(text.split()[: config.words]) for text in training.running]
    lines = [_lines(*item, rng) for item in zip(training.words, running, own, strict=True)]
    model = MultimodalLLM.load(start)
    _check_spelling(model, lines, name)
    sets = [[_view(training.paths, lines, view, name) for view in range(config.views)]]
    training_config = TrainingConfig(
        minutes=config.minutes,
        steps=max(1, round(config.passes * len(training.paths) / config.pictures)),
        pictures=(config.pictures,),
        captions=(2,),
        lead=config.lead,
        learning_rate=config.learning_rate,
        encoder_rate=config.encoder_rate,
        self_critical=0.0,
        warmup=50,
        seed=config.seed,
    )
    model = train_captioner(sets, out, training_config, model)
    folder = out / "checkpoint"
    model.save(folder, "")
    student = BuiltinCaptioner(threads=0, checkpoint=folder)
    before = captions_of(teacher, held_out.paths)
    after = captions_of(student, held_out.paths)
    drawn = [lines for images in _batches(held_out.paths, "draw") for lines in student.draw(images, _DRAWN)]
    result = score_words(training, held_out, before, after, student, drawn)
    facts = {
        "version": __version__,
        "adapted_from": teacher.fingerprint,
        "dataset": name,
        "columns": list(columns),
        "training": asdict(training_config),
        "items": {"training": result.training_items, "held_out": result.held_out_items},
    }
    model.save(folder, card_of(result, name, columns, teacher.fingerprint), facts)
    return result


def adapt_large(
    training: Catalogue,
    held_out: Catalogue,
    out: Path,
    settings: LoraSettings,
    *,
    captioner: HfCaptioner,
    source: Path,
    words: int = 16,
    own: bool = True,
    name: str = "catalogue",
    columns: Sequence[str] = (),
) -> Adapted:
    """`adapt` for a captioner of `transformers`, by LoRA; the probe looks through the built-in captioner's encoder.

    Args:
        training: items to learn from.
        held_out: items to score on; never learnt from.
        out: work folder.
        settings: see LoraSettings.
        captioner: loaded from `source`; it is changed.
        source: its folder.
        words: words of a running text that are learnt.
        own: whether the captioner's own caption follows the text.
        name: of the data set, for the card.
        columns: names of the text columns, for the card.

    Raises:
        CaptionaryError: see `adapt_lora`.
    """
    said = captions_of(captioner, training.paths) if own else [""] * len(training.paths)
    before, was = captions_of(captioner, held_out.paths), captioner.fingerprint
    rng = np.random.default_rng(settings.seed)
    running = [" ".join(text.split()[:words]) for text in training.running]
    lines = [_lines(*item, rng) for item in zip(training.words, running, said, strict=True)]
    folder = out / "checkpoint"
    plain = [[line.replace(LEAD, " ") for line in group] for group in lines]
    adapt_lora(captioner, source, training.paths, plain, folder, settings)
    after = captions_of(captioner, held_out.paths)
    result = score_words(training, held_out, before, after, BuiltinCaptioner(threads=0))
    (folder / "MODEL_CARD.md").write_text(card_of(result, name, columns, was), encoding="utf-8")
    return result


def card_of(result: Adapted, name: str, columns: Sequence[str], start: str) -> str:
    """The model card of an adapted captioner."""
    card = Template((Path(__file__).parent / "adapted_card.md").read_text(encoding="utf-8"))
    return card.substitute(
        name=name,
        columns=", ".join(columns),
        start=start,
        training=f"{result.training_items:,}",
        held_out=f"{result.held_out_items:,}",
        scores=result.to_markdown() or "Running text only: nothing to count.",
    )


def score_words(
    training: Catalogue,
    held_out: Catalogue,
    before: list[str],
    after: list[str],
    eye: BuiltinCaptioner,
    drawn: list[list[str]] | None = None,
) -> Adapted:
    """Average precision of the catalogue's words on held-out items: before, after, and a linear probe.

    A word that a caption says counts by its place among the said words (1, 1/2, …), one that it does not say 0. The
    probe is a ridge regression from the visual vectors of `eye`.

    Args:
        training: what was learnt from.
        held_out: what is scored on.
        before: captions of the held-out items by the captioner as it was.
        after: by the adapted one.
        eye: its encoder is the probe's.
        drawn: per held-out item, captions drawn from the adapted one.
    """
    counts = len(training.paths), len(held_out.paths)
    words = sorted({word for words in training.words for word in words})
    if not words or not held_out.paths:
        return Adapted(None, None, None, *counts)
    truth = np.array([[word in set(own) for word in words] for own in held_out.words])
    was, now = (average_precision(truth, said_scores(each, words), words) for each in (before, after))
    labels = np.array([[word in set(own) for word in words] for own in training.words], dtype=np.float64)
    probe = ridge_probe(_vectors(eye, training.paths), labels, _vectors(eye, held_out.paths))
    often = average_precision(truth, drawn_scores(drawn, words), words) if drawn else None
    return Adapted(was, now, average_precision(truth, probe, words), *counts, often)


def readable(catalogue: Catalogue) -> Catalogue:
    """Without the items whose pictures cannot be opened."""
    kept = []
    for row, path in enumerate(catalogue.paths):
        try:
            open_image(path, BuiltinCaptioner.size)
        except MediaError:
            continue
        kept.append(row)
    return Catalogue(
        item_ids=[catalogue.item_ids[row] for row in kept],
        paths=[catalogue.paths[row] for row in kept],
        words=[catalogue.words[row] for row in kept],
        running=[catalogue.running[row] for row in kept],
    )


def _lines(words: list[str], running: str, own: str, rng: np.random.Generator) -> list[str]:
    """The captions to learn of one item: its words in several orders, then its running text and the captioner's own."""
    orders = {tuple(words[i] for i in rng.permutation(len(words))) for _ in range(_ORDERS)}
    said = [" ".join([*order, running]).strip() for order in sorted(orders)]
    return [f"{text}{LEAD}{own}" if own else text for text in said]


def _check_spelling(model: MultimodalLLM, lines: list[list[str]], name: str) -> None:
    unknown = model.tokenizer.token_to_id("<unk>")
    ids = [token for group in lines for token in model.tokenizer.encode(group[0].split(LEAD)[0]).ids]
    share = sum(token == unknown for token in ids) / max(1, len(ids))
    if share > _UNKNOWN:
        raise bad_value(
            "unknown tokens",
            f"{share:.0%}",
            f"<= {_UNKNOWN:.0%} of the text",
            where=name,
            todo="adapt a captioner whose tokenizer knows this script: --captioner hf:FOLDER",
        )


def _view(paths: list[Path], lines: list[list[str]], view: int, name: str) -> CaptionSet:
    def picture(row: int) -> Image:
        return viewed(open_image(paths[row], BuiltinCaptioner.size), view, row)

    return CaptionSet(f"{name}-{view}", len(paths), picture, lines)


def captions_of(captioner: Captioner, paths: list[Path]) -> list[str]:
    """A captioner's captions of pictures in files, words only."""
    said: list[str] = []
    for images in _batches(
        paths, "caption", int(getattr(captioner, "image_size", 0)) or BuiltinCaptioner.size
    ):
        said += [clean(caption.text) for caption in captioner.caption(images)]
    return said


def _vectors(captioner: BuiltinCaptioner, paths: list[Path]) -> npt.NDArray[np.float32]:
    return np.concatenate([captioner.embed(images) for images in _batches(paths, "embed")])


def _batches(paths: list[Path], what: str, side: int = BuiltinCaptioner.size) -> Iterator[list[Image]]:
    for start in tqdm(range(0, len(paths), _TOGETHER), desc=what, leave=False):
        yield [open_image(path, side) for path in paths[start : start + _TOGETHER]]


def catalogue_of(items: pa.Table, columns: Sequence[str], media_path: Callable[[str], Path]) -> Catalogue:
    """Items with at least one media entry and some text in `columns`; list columns give words, others running text.

    Args:
        items: the contract's table, with `item_id`, `media` and `columns`.
        columns: names of string or list-of-string columns.
        media_path: resolves a media entry.

    Raises:
        CaptionaryError: a column is missing or holds no text.
    """
    import pyarrow as pa

    for column in columns:
        if column not in items.column_names:
            raise bad_value("--text", column, nearest(column, items.column_names))
        kind = items.schema.field(column).type
        inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
        if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
            raise bad_value("--text", column, "a column of strings or lists of strings", where=str(kind))
    found = Catalogue([], [], [], [])
    for row in items.select(dict.fromkeys(["item_id", "media", *columns])).to_pylist():
        words = [
            clean(word) for column in columns if isinstance(row[column], list) for word in row[column] if word
        ]
        running = " ".join(clean(row[column]) for column in columns if isinstance(row[column], str))
        if row["media"] and (words or running):
            found.item_ids.append(row["item_id"])
            found.paths.append(media_path(row["media"][0]))
            found.words.append(list(dict.fromkeys(word for word in words if word)))
            found.running.append(running)
    return found
