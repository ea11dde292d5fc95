"""How much does a trained ranker lean on each feature? Shuffle it over the evaluation rows, and look (paper §4.2).

Three figures a feature, because caption tokens say much of what visual vectors say:

shuffled   the column is permuted over all evaluation rows, the ranker unchanged: the paper's shuffle-all
within     the same, but a row trades with rows whose items look alike: what the feature knows beyond the look
retrained  an arm trained without the feature: what it adds that no other feature can stand in for

Each is the AUC gain of the ranker as it is over the other one, with the tests of `captionary.evidence.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value, nearest
from captionary.evidence.compare import Comparison, Measured, compare, measure, subsets
from captionary.evidence.formats import UNKNOWN, interval, percent
from captionary.evidence.permute import by_row, columns_of, groups_of, permuted
from captionary.evidence.tables import md_table
from captionary.rank.data import Ints, RankingData
from captionary.rank.features import FeatureSet

__all__ = ["FeatureWeight", "Figure", "Importance", "Score", "feature_importance", "strata_of"]

Score = Callable[[RankingData], npt.NDArray[np.floating[Any]]]
"""Probabilities of the evaluation rows of the data that it is given, [Nev, T]."""
Floats = npt.NDArray[np.float64]
_FIT_ROWS = 20_000  # items that clusters are fitted on, at most


class Figure(NamedTuple):
    """The ranker as it is against one that lacks a feature in some way; fractions."""

    auc_gain: float | None
    """Mean over rankers, repeats and tasks; None where no task has both classes."""
    ne_gain: float | None
    interval: tuple[float, float] | None
    """95 % of the AUC gain, over subsets of users (or items), with the spread over rankers added."""
    p_value: float | None
    """Two-sided, of the same."""
    tasks: dict[str, float | None]
    """AUC gain by task."""

    @classmethod
    def of(cls, found: Comparison, tasks: Sequence[str]) -> Figure:
        """From a comparison; what is not known becomes None."""
        tested = found.combined
        by_task = zip(tasks, map(_known, found.task_auc_gain), strict=True)
        return cls(
            _known(found.auc_gain),
            _known(found.ne_gain),
            None if tested is None else tested.interval(),
            None if tested is None else tested.p_value,
            dict(by_task),
        )


class FeatureWeight(NamedTuple):
    """What one feature, or a group of them shuffled together, weighs in a trained ranker."""

    name: str
    kind: Literal["feature", "group"]
    members: tuple[str, ...]
    """The features that are shuffled together; a feature's own name."""
    shuffled: Figure
    within: Figure | None
    """None without strata."""
    retrained: Figure | None
    """None where no arm lacks just these features."""
    rank: int
    """1 is the heaviest of its kind by `shuffled`."""
    percentile: float
    """Percent of the others of its kind that weigh less; 100 for the heaviest."""


class Importance(NamedTuple):
    """All features of an arm."""

    weights: tuple[FeatureWeight, ...]
    """Features, then groups, each heaviest first."""
    tasks: tuple[str, ...]
    rows: int
    """Evaluation rows that everything is measured on."""
    rankers: int
    repeats: int
    strata: str
    """What `within` keeps fixed, in words; empty without strata."""

    @property
    def features(self) -> tuple[FeatureWeight, ...]:
        """Single features, heaviest first."""
        return tuple(one for one in self.weights if one.kind == "feature")

    @property
    def groups(self) -> tuple[FeatureWeight, ...]:
        """Groups, heaviest first."""
        return tuple(one for one in self.weights if one.kind == "group")

    def weight(self, name: str) -> FeatureWeight:
        """One feature or group.

        Raises:
            CaptionaryError: there is none of that name.
        """
        for one in self.weights:
            if one.name == name:
                return one
        raise bad_value("feature", name, nearest(name, [one.name for one in self.weights]))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""

        def plain(one: FeatureWeight) -> dict[str, Any]:
            figures = {
                name: None if figure is None else figure._asdict()
                for name, figure in (
                    ("shuffled", one.shuffled),
                    ("within", one.within),
                    ("retrained", one.retrained),
                )
            }
            return one._asdict() | figures

        return self._asdict() | {"weights": [plain(one) for one in self.weights]}

    def to_markdown(self) -> str:
        """A table of the features, one of the groups, one by task."""
        head: tuple[str, ...] = (
            "Rank",
            "Percentile",
            "Shuffled",
            "95 % interval",
            "Within strata",
            "95 % interval",
        )
        head += ("Retrained without", "95 % interval")
        parts = []
        for title, weights in (("Feature", self.features), ("Group", self.groups)):
            if weights:
                rows = [(one.name, str(one.rank), f"{one.percentile:.0f}", *_figures(one)) for one in weights]
                parts.append("\n".join(md_table((title, *head), rows)))
        if len(self.tasks) > 1:
            rows = [(one.name, *(percent(one.shuffled.tasks[t]) for t in self.tasks)) for one in self.weights]
            parts.append("\n".join(md_table(("Shuffled, by task", *self.tasks), rows)))
        return "\n\n".join([*parts, self.note])

    @property
    def note(self) -> str:
        """How it was measured, in a sentence or two."""
        rankers = "1 ranker" if self.rankers == 1 else f"{self.rankers} rankers"
        text = (
            f"AUC gain of the ranker over itself with the feature shuffled over {self.rows:,} evaluation rows; mean of "
            f"{rankers} and {self.repeats} shuffles of each."
        )
        return (
            f"{text} Within strata: shuffled among rows of the same {self.strata}." if self.strata else text
        )


def feature_importance(
    data: RankingData,
    scores: Sequence[Score],
    features: FeatureSet,
    *,
    units: npt.NDArray[Any] | None = None,
    strata: tuple[Ints, str] | None = None,
    retrained: Mapping[str, npt.NDArray[np.floating[Any]]] | None = None,
    repeats: int = 5,
    subsets_: int = 20,
    most_rows: int = 20_000,
    seed: int = 0,
) -> Importance:
    """Weigh every feature of a trained arm, alone and in groups.

    No more than `most_rows` rows are held a second time, whatever the size of `data`; each shuffle's predictions are
    measured and dropped. Every feature and every ranker is given the same permutations.

    Args:
        data: what the rankers were trained on, with the lists of their arm.
        scores: the trained rankers of the arm's seeds.
        features: of the arm.
        units: what subsets do not share, [Nev]: users, or items where these are new. None: users as the ranker knows
            them, all unseen ones as one.
        strata: (stratum of each evaluation row [Nev], what it is, in words), see `strata_of`; None: no `within`.
        retrained: feature or group → predictions of the arm that lacks it, seed by seed, [S, Nev, T].
        repeats: shuffles of each, >= 1.
        subsets_: for the intervals, see `captionary.evidence.compare`.
        most_rows: evaluation rows that are looked at, >= 2; drawn once where there are more.
        seed: of the drawn rows, the subsets and the shuffles.

    Raises:
        CaptionaryError: no ranker, a bad number, an unknown feature in `retrained`, or predictions that do not fit.
    """
    for name, value, least in (
        ("scores", len(scores), 1),
        ("repeats", repeats, 1),
        ("most_rows", most_rows, 2),
    ):
        if value < least:
            raise bad_value(name, value, f">= {least}")
    rng = np.random.default_rng(seed)
    place = np.sort(rng.permutation(len(data.eval))[:most_rows])  # places within the evaluation rows
    rows = data.eval[place]
    subset = subsets(data.user[rows] if units is None else np.asarray(units)[place], subsets_, seed)
    labels = data.labels[rows]
    table = by_row(data, rows, features)

    def measured(predictions: npt.NDArray[np.floating[Any]]) -> Measured:
        return measure(labels, predictions, subset, kinds=data.task_kinds)

    intact = measured(_scored(scores, table))
    names = columns_of(table, features)
    wanted = {name: (name,) for name in names} | groups_of(names)
    for name in retrained or {}:
        if name not in wanted:
            raise bad_value("feature in retrained", name, nearest(name, wanted))
    kinds = {"all": np.zeros(len(rows), np.int64)}
    if strata is not None:
        kinds["within"] = np.asarray(strata[0])[place]
    orders = {kind: [_order(group, rng) for _ in range(repeats)] for kind, group in kinds.items()}
    found: dict[str, dict[str, Figure]] = {}
    for name, members in wanted.items():
        found[name] = {
            kind: _figure(
                intact,
                [measured(_scored(scores, permuted(table, members, order))) for order in orders[kind]],
                data.tasks,
            )
            for kind in kinds
        }
        if retrained and name in retrained:
            other = measured(np.asarray(retrained[name])[:, place])
            found[name]["retrained"] = _figure(intact, [other], data.tasks)
    weights = [
        *_ranked("feature", {name: (name,) for name in names}, found),
        *_ranked("group", groups_of(names), found),
    ]
    words = "" if strata is None else strata[1]
    return Importance(tuple(weights), data.tasks, len(rows), len(scores), repeats, words)


def strata_of(data: RankingData, *, clusters: int = 32, seed: int = 0) -> tuple[Ints, str] | None:
    """(stratum of each evaluation row [Nev], what it is): clusters of the items' looks, else their first category.

    Clusters are of at least eight items on average, so that there is somebody to trade with; None where there are
    neither visual vectors for two of them nor categories.
    """
    items, row = np.unique(data.item[data.eval], return_inverse=True)
    count = min(clusters, len(items) // 8)
    if data.visual is not None and count >= 2:
        from scipy.cluster.vq import kmeans2, vq

        looks = data.visual[items].astype(np.float64)
        drawn = np.random.default_rng(seed).permutation(len(items))[:_FIT_ROWS]
        centres, _ = kmeans2(looks[drawn], count, minit="++", rng=np.random.default_rng(seed))
        return vq(looks, centres)[0].astype(np.int64)[row], "look (cluster of the visual vectors)"
    if data.item_categorical:
        name = next(iter(data.item_categorical))
        return data.item_categorical[name][data.item[data.eval]], name
    return None


def _scored(scores: Sequence[Score], data: RankingData) -> npt.NDArray[np.floating[Any]]:
    predictions = np.stack([score(data) for score in scores])
    expected = (len(scores), len(data.eval), len(data.tasks))
    if predictions.shape != expected:
        raise bad_value("shape of predictions", predictions.shape, f"{expected}, as a score gives [Nev, T]")
    return predictions


def _order(strata: Ints, rng: np.random.Generator) -> Ints:
    """A permutation of the rows that keeps each within its stratum."""
    order = np.empty(len(strata), np.int64)
    order[np.argsort(strata, kind="stable")] = np.lexsort((rng.random(len(strata)), strata))
    return order


def _figure(intact: Measured, others: Sequence[Measured], tasks: Sequence[str]) -> Figure:
    """Against the mean of the shuffles: their luck is averaged out before rankers and subsets are compared."""
    # Measured from the first, so that shuffles that are all alike average to exactly what they are.
    means = [
        same[0] + sum(each - same[0] for each in same) / len(same)
        if isinstance(same[0], np.ndarray)
        else same[0]
        for same in zip(*others, strict=True)
    ]
    return Figure.of(compare(intact, Measured(*means)), tasks)


def _ranked(
    kind: Literal["feature", "group"],
    members: Mapping[str, tuple[str, ...]],
    found: Mapping[str, Mapping[str, Figure]],
) -> list[FeatureWeight]:
    def weight(name: str) -> float:
        gain = found[name]["all"].auc_gain
        return -np.inf if gain is None else gain

    ordered = sorted(members, key=weight, reverse=True)
    return [
        FeatureWeight(
            name=name,
            kind=kind,
            members=members[name],
            shuffled=found[name]["all"],
            within=found[name].get("within"),
            retrained=found[name].get("retrained"),
            rank=place,
            percentile=100.0 * (len(ordered) - place) / (len(ordered) - 1) if len(ordered) > 1 else 100.0,
        )
        for place, name in enumerate(ordered, start=1)
    ]


def _figures(one: FeatureWeight) -> list[str]:
    cells = []
    for figure in (one.shuffled, one.within, one.retrained):
        cells += (
            [UNKNOWN, UNKNOWN] if figure is None else [percent(figure.auc_gain), interval(figure.interval)]
        )
    return cells


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
