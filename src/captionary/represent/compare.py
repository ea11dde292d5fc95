"""Tokenizers side by side on the same captions: what they cover, how they age, how fast they are."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.represent.concepts import concepts_of
from captionary.represent.jagged import Jagged
from captionary.represent.tokenizers import Tokenizer, TokenizerConfig, make_tokenizer
from captionary.represent.words import words_of

__all__ = ["Comparison", "Gain", "TokenizerRow", "compare_tokenizers", "divergence"]


class Gain(NamedTuple):
    """What a ranker gains from the tokens of one tokenizer, over the same ranker without them."""

    auc_gain: float | None
    """Relative decrease of 1 - AUC, mean over tasks."""
    auc_interval: tuple[float, float] | None
    """95 % interval of the AUC gain, over subsets of the evaluation rows and over seeds."""
    ne_gain: float | None
    """Relative decrease of normalised entropy, mean over tasks."""


class TokenizerRow(NamedTuple):
    """One tokenizer, fitted on the earlier captions unless said otherwise."""

    name: str
    kind: str
    vocabulary: int
    """Rows of the token table, [UNK] included."""
    coverage: float
    """Share of the later captions that get at least one known token."""
    oov: float
    """Share of the later captions' tokens that the vocabulary does not have."""
    length: float
    """Mean tokens of a caption, over all captions."""
    length_95: float
    """Tokens that 95 % of all captions do not exceed."""
    collisions: int
    """Concept words (dog, red, run) that share their ids with another one, of those that are known."""
    words: int
    """Concept words of the earlier captions that are known: spelt without id 0."""
    added: int
    """Tokens that growing by the later captions adds."""
    stable: float
    """Share of the words that `min_df` earlier captions hold whose ids are the same after growth; 1 by design."""
    stable_refit: float
    """The same, had the tokenizer been fitted anew on all captions instead: what growth is for."""
    projected: float
    """Share of the later captions whose lists, grown and projected back, equal those of before; 1 by design."""
    drift: float
    """Mean Jensen-Shannon divergence (bits, 0 to 1) of the token distributions of consecutive time slices."""
    drift_by_chance: float
    """The same for captions dealt to the slices at random: what samples of that size show without any drift."""
    drift_by_slice: tuple[float, ...]
    """The divergence of each slice from the one before."""
    captions_per_second: float
    """Median speed of `encode` over all captions, one process, this machine."""
    gain: Gain | None = None
    """Where it was asked for."""


class Comparison(NamedTuple):
    """All tokenizers, and what they were compared on."""

    rows: tuple[TokenizerRow, ...]
    earlier: int
    """Captions that the tokenizers were fitted on."""
    later: int
    """Captions that came after them."""
    slices: int
    """Time slices of the drift."""
    by_time: bool
    """Whether "later" is by `created_at`; else by the order given."""

    def with_gains(self, gains: Mapping[str, Gain]) -> Comparison:
        """The same with the gains of rankers, by the tokenizers' names."""
        return self._replace(rows=tuple(row._replace(gain=gains.get(row.name)) for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = []
        for row in self.rows:
            said = row._asdict()
            rows.append({**said, "gain": None if row.gain is None else row.gain._asdict()})
        return {**self._asdict(), "rows": rows}

    def to_markdown(self) -> str:
        """A table, one row a tokenizer, and a sentence that says on what."""
        gains = any(row.gain is not None for row in self.rows)
        heads = [
            "tokenizer", "vocabulary", "coverage", "OOV", "tokens (95 %)", "collisions", "added", "ids kept",
            "kept by a refit", "drift (chance)", "captions/s",
        ]  # fmt: skip
        heads += ["AUC gain", "NE gain"] if gains else []
        lines = [" | ".join(heads), " | ".join(["---", *["---:"] * (len(heads) - 1)])]
        for row in self.rows:
            cells = [
                row.name,
                f"{row.vocabulary:,}",
                _percent(row.coverage),
                _percent(row.oov),
                f"{row.length:.1f} ({row.length_95:.0f})",
                f"{row.collisions:,} of {row.words:,}",
                f"{row.added:,}",
                _percent(row.stable),
                _percent(row.stable_refit),
                f"{row.drift:.3f} ({row.drift_by_chance:.3f})",
                f"{row.captions_per_second:,.0f}",
            ]
            cells += _gain_cells(row.gain) if gains else []
            lines.append(" | ".join(cells))
        order = "by created_at" if self.by_time else "in the order given"
        said = (
            f"Fitted on {self.earlier:,} captions; {self.later:,} later ones {order}; {self.slices} slices."
        )
        return "\n".join([*(f"| {line} |" for line in lines), "", said])


def compare_tokenizers(
    captions: Sequence[str],
    configs: Sequence[TokenizerConfig],
    *,
    created_at: npt.NDArray[np.datetime64] | None = None,
    later: float = 0.2,
    slices: int = 8,
    repeats: int = 3,
) -> Comparison:
    """Fit each tokenizer on the earlier captions and look how it fares with the later ones.

    Args:
        captions: as `normalize` gives them, one an item; empty ones are left out.
        configs: the tokenizers, their names all different.
        created_at: time of each caption's item [N]; those without come first. None: captions are in order.
        later: share of the captions, the latest, that no tokenizer is fitted on; above 0, below 1.
        slices: parts of equal size, in time order, for the drift, >= 2.
        repeats: how often `encode` is timed, >= 1.

    Raises:
        CaptionaryError: settings out of range, fewer captions than slices, or two tokenizers of one name.
    """
    if not 0 < later < 1:
        raise bad_value("later", later, "a share above 0 and below 1")
    if slices < 2:
        raise bad_value("slices", slices, ">= 2")
    if repeats < 1:
        raise bad_value("repeats", repeats, ">= 1")
    order = np.arange(len(captions))
    by_time = created_at is not None and not np.isnat(created_at).all()
    if by_time and created_at is not None:
        times = np.where(np.isnat(created_at), np.datetime64("0001-01-01"), created_at)
        order = np.argsort(times, kind="stable")
    told = [captions[index] for index in order.tolist() if captions[index]]
    if len(told) < slices:
        raise bad_value("captions", len(told), f">= {slices}, one for each slice")
    cut = min(max(1, round(len(told) * (1 - later))), len(told) - 1)
    tokenizers = [make_tokenizer(config) for config in configs]
    names = Counter(tokenizer.name for tokenizer in tokenizers)
    for name, count in names.items():
        if count > 1:
            raise bad_value("tokenizer name", name, "given once", todo="give each a `name`")
    # Read alone, a concept word is itself: "spotted" is no concept word where "spot" is one.
    words = sorted(
        word
        for word in {word for caption in set(told[:cut]) for word in concepts_of(caption)}
        if concepts_of(word) == [word] and " " not in word
    )
    rows = tuple(_row(config, told, cut, words, slices, repeats) for config in configs)
    return Comparison(rows, cut, len(told) - cut, slices, by_time)


def _row(
    config: TokenizerConfig, told: Sequence[str], cut: int, words: Sequence[str], slices: int, repeats: int
) -> TokenizerRow:
    earlier, later = told[:cut], told[cut:]
    tokenizer = make_tokenizer(config).fit(earlier)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        lists = tokenizer.encode(told)
        seconds.append(time.perf_counter() - began)
    after = lists.take(np.arange(cut, len(told)))
    known = np.add.reduceat(np.append(after.values > 0, False), after.offsets[:-1])
    known[after.lengths == 0] = 0
    spelt = _spelt(tokenizer, words)
    held = [word for word in words if _known(spelt[word])]
    shared = Counter(spelt[word] for word in held)
    grown = tokenizer.grow(later)
    frequencies = Counter(word for caption in earlier for word in set(words_of(caption)))
    before = _spelt(tokenizer, [word for word, count in frequencies.items() if count >= config.min_df])
    old = [word for word, ids in before.items() if _known(ids)]
    regrown, refit = _spelt(grown, old), _spelt(make_tokenizer(config).fit(told), old)
    back = grown.project(grown.encode(later), 0)
    size = len(tokenizer.vocabulary)
    drifts = _drifts(lists, size, slices)
    dealt = lists.take(np.random.default_rng(0).permutation(lists.rows))
    return TokenizerRow(
        name=tokenizer.name,
        kind=config.kind,
        vocabulary=size,
        coverage=float(np.mean(known > 0)),
        oov=tokenizer.unknown(later),
        length=float(lists.lengths.mean()),
        length_95=float(np.quantile(lists.lengths, 0.95)),
        collisions=sum(count for count in shared.values() if count > 1),
        words=len(held),
        added=len(grown.vocabulary) - size,
        stable=_share(before[word] == regrown[word] for word in old),
        stable_refit=_share(before[word] == refit[word] for word in old),
        projected=_share(np.array_equal(back.row(row), after.row(row)) for row in range(after.rows)),
        drift=float(np.mean(drifts)),
        drift_by_chance=float(np.mean(_drifts(dealt, size, slices))),
        drift_by_slice=tuple(drifts),
        captions_per_second=len(told) / statistics.median(seconds),
    )


def divergence(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Jensen-Shannon divergence of two count vectors [V] in bits: 0 alike, 1 nothing in common; nan without counts."""
    if not first.sum() or not second.sum():
        return float("nan")
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2

    def relative(part: npt.NDArray[Any]) -> float:
        held = part > 0
        return float(np.sum(part[held] * np.log2(part[held] / middle[held])))

    return max(0.0, (relative(p) + relative(q)) / 2)


def _drifts(lists: Jagged, size: int, slices: int) -> list[float]:
    bounds = np.linspace(0, lists.rows, slices + 1).round().astype(np.int64)
    ends = lists.offsets[bounds]
    counts = [np.bincount(lists.values[first:last], minlength=size) for first, last in pairwise(ends)]
    return [divergence(before, after) for before, after in pairwise(counts)]


def _spelt(tokenizer: Tokenizer, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    lists = tokenizer.encode(words)
    return {word: tuple(lists.row(row).tolist()) for row, word in enumerate(words)}


def _known(ids: Sequence[int]) -> bool:
    return bool(ids) and 0 not in ids


def _share(found: Any) -> float:
    flags = list(found)
    return sum(flags) / len(flags) if flags else float("nan")


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


def _gain_cells(gain: Gain | None) -> list[str]:
    if gain is None or gain.auc_gain is None:
        return ["–", "–"]
    auc = f"{100 * gain.auc_gain:+.2f} %"
    if gain.auc_interval is not None:
        low, high = gain.auc_interval
        auc += f" ({100 * low:+.2f} … {100 * high:+.2f})"
    return [auc, "–" if gain.ne_gain is None else f"{100 * gain.ne_gain:+.2f} %"]
