"""Semantic ids: an item's vector as a short list of codes, by k-means over what the codes before left (residuals).

    vector ──nearest of K──▶ code 1 ──rest──▶ nearest of K ──▶ code 2 ──rest──▶ … ──▶ (17, 3, 40)

Similar items share the first codes (TIGER, Rajput et al. 2023; in ranking, Singh et al. 2024, "Better Generalization
with Semantic IDs"). As token lists they go through the same bags as captions and are their built-in rival:

    level    17, 3, 40  →  [1 + 17, 1 + K + 3, 1 + 2K + 40]                     each level has K ids of its own
    prefix   17, 3, 40  →  [id of (17), id of (17, 3), id of (17, 3, 40)]       each prefix seen in fitting has an id

A prefix of a later item that fitting has not seen is left out: the item then has the shorter ones alone.
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.config import from_mapping
from captionary.errors import bad_value
from captionary.publish import atomic_file
from captionary.represent.jagged import Jagged

__all__ = ["LevelReport", "SemanticIdConfig", "SemanticIds", "SemanticReport"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]

_CHUNK = 1 << 24  # distances held at a time


@dataclass(frozen=True, kw_only=True)
class SemanticIdConfig:
    """Sizes of semantic ids, and how they are fitted."""

    levels: int = 3
    """Codes of an item, >= 1."""
    codes: int = 128
    """K, codes of a level, >= 2."""
    encoding: Literal["prefix", "level"] = "prefix"
    """What becomes a token: each prefix of the codes, or each code by itself."""
    iterations: int = 50
    """Most steps of k-means at each level, >= 1."""
    seed: int = 0
    """Decides the initial centres, >= 0."""

    def __post_init__(self) -> None:
        for name, least in (("levels", 1), ("codes", 2), ("iterations", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise bad_value(name, getattr(self, name), f">= {least}")
        if self.encoding not in ("prefix", "level"):
            raise bad_value("encoding", self.encoding, "prefix or level")
        if self.levels * math.log2(self.codes) > 62:
            raise bad_value(
                "levels", self.levels, f"<= {int(62 / math.log2(self.codes))} for {self.codes} codes"
            )


class LevelReport(NamedTuple):
    """How one level's codes are used."""

    level: int
    """From 1."""
    used: int
    """Codes that any item has."""
    codes: int
    """K."""
    entropy: float
    """Of the codes over items, bits."""
    explained: float
    """Share of the vectors' variance that this level and those before explain; nan where there is none."""

    @property
    def evenness(self) -> float:
        """Entropy over that of codes used evenly, 0 to 1."""
        return self.entropy / math.log2(self.codes)


class SemanticReport(NamedTuple):
    """What semantic ids make of some items."""

    levels: tuple[LevelReport, ...]
    items: int
    """Items with a vector."""
    distinct: int
    """Different full ids among them."""
    colliding: int
    """Items that share their full id with another."""
    largest: int
    """Items of the most frequent full id."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; nan becomes null."""
        levels = [level._asdict() | {"evenness": level.evenness} for level in self.levels]
        for level in levels:
            level["explained"] = None if math.isnan(level["explained"]) else level["explained"]
        return {**self._asdict(), "levels": levels}

    def to_markdown(self) -> str:
        """A table of the levels and a sentence on collisions."""
        lines = [
            "| level | codes used | entropy, bits | evenness | variance explained |",
            "|---|---|---|---|---|",
        ]
        for level in self.levels:
            explained = "–" if math.isnan(level.explained) else f"{level.explained:.1%}"
            lines.append(
                f"| {level.level} | {level.used:,} of {level.codes:,} | {level.entropy:.2f} of "
                f"{math.log2(level.codes):.2f} | {level.evenness:.1%} | {explained} |"
            )
        share = self.colliding / self.items if self.items else 0.0
        lines += [
            "",
            f"{self.items:,} items have {self.distinct:,} different ids; {self.colliding:,} ({share:.1%}) share theirs "
            f"with another item, at most {self.largest:,} one id.",
        ]
        return "\n".join(lines)


class SemanticIds:
    """Fitted codebooks.

    Attributes:
        config: what they were fitted with.
        codebooks: float32 [L, K, D], the centres of each level.
        prefixes: for each level the prefixes seen in fitting, int64, sorted: code 1 · K^(l-1) + … + code l.
    """

    def __init__(self, config: SemanticIdConfig, codebooks: Floats, prefixes: list[Ints]) -> None:
        self.config, self.codebooks, self.prefixes = config, codebooks, prefixes

    @classmethod
    def fit(cls, vectors: Floats, config: SemanticIdConfig | None = None) -> SemanticIds:
        """Fit on `vectors` [N, D], those of the items known in training; the same input gives the same ids.

        Raises:
            CaptionaryError: no vectors, or numbers that are not finite.
        """
        config = config or SemanticIdConfig()
        if vectors.ndim != 2 or not vectors.size:
            raise bad_value("shape of vectors", vectors.shape, "(N, D), N and D >= 1")
        _check_finite(vectors)
        rest = vectors.astype(np.float32)
        codebooks = []
        for level in range(config.levels):
            rng = np.random.default_rng([config.seed, level])
            centres = _kmeans(rest, config.codes, config.iterations, rng)
            codebooks.append(centres)
            rest = rest - centres[_nearest(rest, centres)[0]]
        made = cls(config, np.stack(codebooks), [])
        made.prefixes = [np.unique(keys) for keys in _keys(made.assign(vectors), config.codes)]
        return made

    @property
    def vocabulary(self) -> int:
        """Rows that a token table needs, id 0 (no token) included."""
        return 1 + sum(self._sizes())

    def assign(self, vectors: Floats, present: npt.NDArray[np.bool_] | None = None) -> Codes:
        """The codes of vectors [I, D], int32 [I, L]; -1 in rows that are not `present` [I].

        Raises:
            CaptionaryError: vectors of another width, or not finite where present.
        """
        width = self.codebooks.shape[2]
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise bad_value("shape of vectors", vectors.shape, f"(I, {width}), as in fitting")
        present = np.ones(len(vectors), bool) if present is None else present
        rest = vectors[present].astype(np.float32)
        _check_finite(rest)
        codes = np.full((len(vectors), len(self.codebooks)), -1, np.int32)
        for level, centres in enumerate(self.codebooks):
            chosen = _nearest(rest, centres)[0]
            codes[present, level] = chosen
            rest = rest - centres[chosen]
        return codes

    def tokens(self, codes: Codes) -> Jagged:
        """Codes [I, L] as I token lists, in the encoding of the config; empty where the codes are -1."""
        count, levels = codes.shape
        sizes = self._sizes()
        ids = np.zeros((count, levels), np.int64)
        kept = np.repeat(codes[:, :1] >= 0, levels, axis=1)
        first = 1
        for level, keys in enumerate(_keys(codes, self.config.codes)):
            if self.config.encoding == "level":
                place = codes[:, level].astype(np.int64)
            else:
                known = self.prefixes[level]
                place = np.searchsorted(known, keys).clip(max=len(known) - 1)
                kept[:, level] &= known[place] == keys
            ids[:, level] = first + place
            first += sizes[level]
        offsets = np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int64)
        return Jagged(ids[kept].astype(np.int32), offsets)

    def report(self, vectors: Floats, present: npt.NDArray[np.bool_] | None = None) -> SemanticReport:
        """Use of the codes, their entropy, collisions and what is left of the variance, for vectors [I, D]."""
        present = np.ones(len(vectors), bool) if present is None else present
        codes = self.assign(vectors, present)[present]
        rest = vectors[present].astype(np.float64)
        total = float(np.square(rest - rest.mean(0)).sum()) if len(rest) else 0.0
        levels = []
        for level, centres in enumerate(self.codebooks):
            counts = np.bincount(codes[:, level], minlength=len(centres))
            shares = counts[counts > 0] / max(len(codes), 1)
            rest = rest - centres[codes[:, level]]
            explained = 1 - float(np.square(rest).sum()) / total if total else math.nan
            entropy = max(0.0, -float((shares * np.log2(shares)).sum()))
            levels.append(LevelReport(level + 1, len(shares), len(centres), entropy, explained))
        groups = np.unique(_keys(codes, self.config.codes)[-1], return_counts=True)[1]
        colliding = int(groups[groups > 1].sum())
        return SemanticReport(tuple(levels), len(codes), len(groups), colliding, int(groups.max(initial=0)))

    def save(self, path: Path) -> Path:
        """Write them as .npz; the file is whole or not there."""
        named: dict[str, Any] = {f"prefixes_{level}": keys for level, keys in enumerate(self.prefixes)}
        with atomic_file(path) as file:
            np.savez(
                file, config=np.array(json.dumps(asdict(self.config))), codebooks=self.codebooks, **named
            )
        return path

    @classmethod
    def load(cls, path: Path) -> SemanticIds:
        """Read what `save` wrote.

        Raises:
            CaptionaryError: no such file, or of another shape.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                config = from_mapping(SemanticIdConfig, json.loads(str(stored["config"])), where=str(path))
                prefixes = [stored[f"prefixes_{level}"] for level in range(config.levels)]
                return cls(config, stored["codebooks"], prefixes)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            said = str(error)[:200] or type(error).__name__
            raise bad_value(
                "semantic ids", str(path), "a file that SemanticIds.save wrote", where=said
            ) from None

    def _sizes(self) -> list[int]:
        """Ids of each level."""
        if self.config.encoding == "level":
            return [self.config.codes] * self.config.levels
        return [len(keys) for keys in self.prefixes]


def _keys(codes: Codes, base: int) -> list[Ints]:
    """For each level the number of each item's prefix, int64 [I]; meaningless where the codes are -1."""
    keys = [codes[:, 0].astype(np.int64)]
    for level in range(1, codes.shape[1]):
        keys.append(keys[-1] * base + codes[:, level])
    return keys


def _kmeans(points: Floats, count: int, iterations: int, rng: np.random.Generator) -> Floats:
    """Lloyd's k-means: centres [K, D]. A code that no point has is moved to the point that is served worst."""
    from scipy.sparse import csr_matrix

    centres = _plus_plus(points, count, rng)
    rows = np.arange(len(points))
    before: npt.NDArray[np.int64] | None = None
    for _ in range(iterations):
        chosen, distance = _nearest(points, centres)
        sizes = np.bincount(chosen, minlength=count)
        member = csr_matrix((np.ones(len(points)), (chosen, rows)), (count, len(points)))  # [K, N]
        sums = member @ points.astype(np.float64)
        alive = sizes > 0
        centres = centres.copy()
        centres[alive] = sums[alive] / sizes[alive, None]
        dead = np.flatnonzero(~alive)
        # Of points that lie on their centre nothing is gained: with fewer distinct points than codes some stay dead.
        worst = np.argsort(-distance, kind="stable")[: len(dead)]
        worst = worst[distance[worst] > 0]
        centres[dead[: len(worst)]] = points[worst]
        if not len(worst) and before is not None and np.array_equal(chosen, before):
            break
        before = chosen
    return centres


def _plus_plus(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Initial centres by k-means++ (Arthur and Vassilvitskii 2007): far from each other, but where points are."""
    centres = np.empty((count, points.shape[1]), np.float32)
    centres[0] = points[rng.integers(len(points))]
    distance = np.square(points - centres[0]).sum(1, dtype=np.float64)
    for place in range(1, count):
        total = np.cumsum(distance)
        # All points are centres already: what follows repeats one and stays unused, as the first of equals is taken.
        drawn = np.searchsorted(total, rng.random() * total[-1], side="right") if total[-1] > 0 else 0
        centres[place] = points[min(drawn, len(points) - 1)]
        distance = np.minimum(distance, np.square(points - centres[place]).sum(1, dtype=np.float64))
    return centres


def _nearest(points: Floats, centres: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(nearest centre of each point [N], the first of equals; its squared distance [N])."""
    chosen = np.empty(len(points), np.int64)
    distance = np.empty(len(points))
    lengths = np.square(centres).sum(1)
    step = max(1, _CHUNK // len(centres))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        chosen[part] = (lengths - 2 * (points[part] @ centres.T)).argmin(1)
        # Exactly, not from the difference above: a point on its centre is at 0.
        distance[part] = np.square(points[part] - centres[chosen[part]]).sum(1, dtype=np.float64)
    return chosen, distance


def _check_finite(vectors: Floats) -> None:
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        raise bad_value("vector", "NaN or infinite", "finite", where=f"row {int(np.argmin(finite))}")
