"""Score candidates with an exported ranker: see `captionary.rank.export` for what is in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from captionary.errors import bad_value, nearest
from captionary.rank.artefact import Artefact, ItemFeatures, as_lists, item_inputs, read_artefact
from captionary.rank.folded_scorer import FoldedScorer
from captionary.rank.folding import RequestState, Served
from captionary.rank.request_side import RequestInputs, RequestSide
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileList

__all__ = ["Explanation", "ItemFeatures", "ScoringRequest", "ServingRanker", "TokenPair"]

Floats = npt.NDArray[np.float32]


class ScoringRequest(NamedTuple):
    """One user's request: candidates by raw id, or their folded rows."""

    user: int | str | None = None
    """Raw id; None or not in the vocabulary: the unseen user."""
    items: Sequence[int | str] | npt.NDArray[Any] | None = None
    """C raw item ids; one that the artefact does not hold is scored as an unseen item without content."""
    rows: Floats | None = None
    """[C, R] rows of an online store, as `ServingRanker.fold` made them, in the place of `items`."""
    context: Mapping[str, Any] = MappingProxyType({})
    """Context column → value; one that is missing, None or NaN: the unseen category, or the training rows' mean."""
    profiles: Mapping[str, ProfileList] | None = None
    """Event type → the user's profile now; an event type that is missing, and None: an empty list of mass 0."""
    vectors: Mapping[str, Floats] = MappingProxyType({})
    """Key → [D], of the dense vectors that belong to users; one that is missing: zeros, as in training."""


class TokenPair(NamedTuple):
    """A token of a profile that met a token of the item."""

    event: str
    """Whose profile."""
    profile_token: int
    item_token: int
    contribution: float
    """In logits; see `ServingRanker.explain`."""
    share: float
    """|contribution| over the sum of all pairs' |contribution|, 0 to 1."""


class Explanation(NamedTuple):
    """Why one candidate has its score for one task, as far as profile tokens met item tokens."""

    candidate: int
    """Place in the request."""
    task: str
    score: float
    pairs: tuple[TokenPair, ...]
    """The most contributing first."""


class ServingRanker:
    """An exported ranker, loaded to answer requests; any number of threads may call it at once."""

    tasks: tuple[str, ...]
    """Names of the T tasks, in the order of the scores' columns."""
    events: tuple[str, ...]
    """Event types of which a profile is read: its list, or its mass alone."""
    version: str
    """Digest of all that decides a score: weights, vocabularies, calibration, item rows."""
    row_width: int
    """R, float32 numbers of an item's row."""
    calibrated: bool
    """Whether scores are calibrated, as the ranker was after training."""
    engine: Literal["numba", "torch"]
    """What computes the scores: one compiled pass where the ranker is of the kind for it, else torch."""

    def __init__(self, parts: Artefact, *, engine: Literal["numba", "torch"] | None = None) -> None:
        schema = parts.ranker.schema
        self._parts, self._served = parts, Served(parts.ranker, parts.item_vectors)
        self._rows = np.asarray(parts.rows)
        self._scorer = (
            FoldedScorer(self._served) if engine != "torch" and FoldedScorer.takes(self._served) else None
        )
        self.engine = "torch" if self._scorer is None else "numba"
        self.calibrated = parts.ranker.calibration is not None
        self.tasks, self.version, self.row_width = schema.tasks, parts.version, self._served.row_width
        if parts.rows.shape[1] != self.row_width:
            raise bad_value("width of item rows", parts.rows.shape[1], str(self.row_width), where="artefact")
        active = [name.removeprefix("activity.") for name in schema.numeric if name.startswith("activity.")]
        self.events = tuple(dict.fromkeys([*active, *schema.events]))
        self._requests = RequestSide(self._served)
        columns = [("user", ""), *((f"context.{name}", name) for name in schema.context)]
        self._lookups = [(parts.lookups[name], column) for name, column in columns]
        numeric = [schema.numeric[place] for place in self._served.of_request.tolist()]
        self._numeric = [(*name.split(".", 1),) for name in numeric]
        self._warm_up()
        self._context = {*schema.context, *(column for kind, column in self._numeric if kind == "context")}

    @classmethod
    def load(
        cls, folder: Path, *, threads: int = 1, engine: Literal["numba", "torch"] | None = None
    ) -> ServingRanker:
        """Read what `captionary export` wrote; item rows are memory-mapped.

        Args:
            folder: of the artefact.
            threads: of one request's matrix products, in this whole process. Requests at once, each on one thread, get
                more out of a machine than threads within one.
            engine: None: the fastest that the ranker allows.

        Raises:
            CaptionaryError: a file is missing, damaged, or of another format; an engine that does not take the ranker.
        """
        from threadpoolctl import threadpool_limits

        if threads < 1:
            raise bad_value("threads", threads, ">= 1")
        torch.set_num_threads(threads)
        threadpool_limits(threads, user_api="blas")  # numpy's and scipy's
        loaded = cls(read_artefact(Path(folder)), engine=engine)
        if engine not in (None, loaded.engine):
            raise bad_value(
                "engine", engine, loaded.engine, where="this ranker's interaction, towers or columns"
            )
        return loaded

    @property
    def items(self) -> int:
        """Items that the artefact holds rows of."""
        return len(self._rows) - 1

    @torch.inference_mode()
    def score(self, request: ScoringRequest) -> Floats:
        """Predictions of C candidates for T tasks, float32 [C, T]: probabilities, or amounts of continuous tasks.

        They are calibrated where the ranker is.

        Raises:
            CaptionaryError: neither or both of items and rows, rows of another width, an unknown column or event type,
                an id of another type than in training, an infinite number.
        """
        rows, index = self._candidates(request)
        state = self._state(request)
        if self._scorer is None:
            logits = self._served(_gathered(rows, index), state)
        else:
            logits = torch.from_numpy(self._scorer(rows, index, state))
        scores: Floats = self._parts.ranker.predictions(logits, calibrated=self.calibrated).numpy()
        return scores

    def rows(self, items: Sequence[int | str] | npt.NDArray[Any]) -> Floats:
        """The folded rows of known items, float32 [n, R]: what an online store is filled with; others' are unseen."""
        return self._parts.rows[self._parts.item_rows.rows(items)]

    def fold(self, items: ItemFeatures) -> Floats:
        """Rows of items, float32 [n, R], new ones too: what the ingest worker writes into the online store.

        Raises:
            CaptionaryError: an unknown column, lengths that disagree, an infinite number.
        """
        rows: Floats = self._served.fold(item_inputs(items, self._parts)).numpy()
        return rows

    def explain(
        self, request: ScoringRequest, *, task: str | None = None, top: int = 10, tokens: Jagged | None = None
    ) -> list[Explanation]:
        """For each candidate, the pairs of profile token and item token that moved its score most.

        A bag is a sum of its tokens' parts. A pair's contribution to the logit is p' H q: p and q are the parts of the
        profile's and the item's token, H [D, D] is the logit's mixed second derivative by the two bags at this request.
        With dot products that is the pair's part of the dot product of the bags, times the slope of the logit in it;
        the pairs of `concat` contribute nothing. What tokens do by themselves and beside ids is no pair's.

        Args:
            request: as for `score`.
            task: its name; None: the first.
            top: pairs to return of a candidate, >= 1.
            tokens: C lists, of the candidates; None: those of the artefact, none for items that it does not know.

        Raises:
            CaptionaryError: see `score`; an unknown task; `rows` without `tokens`.
        """
        from captionary.rank.explaining import explain

        schema, chosen = self._parts.ranker.schema, self.tasks[0] if task is None else task
        if chosen not in self.tasks:
            raise bad_value("task", chosen, nearest(chosen, self.tasks))
        if top < 1:
            raise bad_value("top", top, ">= 1")
        if tokens is None:
            if request.items is None:
                raise bad_value("tokens", "none", "given with rows", todo="pass the candidates' token lists")
            tokens = self._parts.tokens_of(request.items)
        with torch.no_grad():
            rows, scores = _gathered(*self._candidates(request)), self.score(request)
            state = self._state(request)
        if tokens.rows != len(rows):
            raise bad_value("lists of tokens", tokens.rows, f"{len(rows)}, one a candidate")
        found = explain(
            self._served,
            rows,
            state,
            self._requests.lists([(request.profiles or {}).get(event) for event in schema.events]),
            as_lists(tokens, schema.vocabulary),
            task=self.tasks.index(chosen),
            top=top,
        )
        column = scores[:, self.tasks.index(chosen)]
        return [
            Explanation(place, chosen, float(column[place]), tuple(TokenPair(*pair) for pair in pairs))
            for place, pairs in enumerate(found)
        ]

    def _candidates(self, request: ScoringRequest) -> tuple[Floats, npt.NDArray[np.int64]]:
        """(rows [n, R], which of them each candidate has [C])."""
        if (request.items is None) == (request.rows is None):
            given = "neither" if request.items is None else "both"
            raise bad_value("candidates", given, "one of items and rows")
        if request.items is not None:
            return self._rows, self._parts.item_rows.rows(request.items)
        rows = np.asarray(request.rows)
        if rows.ndim != 2 or rows.shape[1] != self.row_width or rows.dtype != np.float32:
            rule = f"float32 [C, {self.row_width}]"
            todo = f"fold the items with version {self.version} of the ranker"
            raise bad_value("rows", f"{rows.dtype} {list(rows.shape)}", rule, todo=todo)
        return np.ascontiguousarray(rows), np.arange(len(rows))

    def _warm_up(self) -> None:
        """Compile for rows in memory and for such as cannot be written, as those out of a store's answer."""
        if self._scorer is None:
            return
        nothing = RequestInputs(
            [0] * len(self._lookups),
            [math.nan] * len(self._numeric),
            {},
            [None] * len(self._parts.ranker.schema.events),
        )
        with torch.inference_mode():
            state, fixed = self._requests.state(nothing), self._rows[:1].copy()
            fixed.flags.writeable = False
            for rows in (self._rows, fixed):
                self._scorer(rows, np.zeros(1, np.int64), state)

    def _state(self, request: ScoringRequest) -> RequestState:
        context, profiles = request.context, request.profiles or {}
        if not self._context.issuperset(context):
            name = next(iter(set(context) - self._context))
            raise bad_value("context column", name, nearest(name, self._context), where="request")
        if not profiles.keys() <= set(self.events):
            name = next(iter(set(profiles) - set(self.events)))
            raise bad_value("event type", name, nearest(name, self.events), where="profiles of the request")
        return self._requests.state(
            RequestInputs(
                rows=[
                    lookup.row(context.get(column) if column else request.user)
                    for lookup, column in self._lookups
                ],
                numeric=[self._number(kind, name, request) for kind, name in self._numeric],
                vectors=request.vectors,
                profiles=[profiles.get(event) for event in self._parts.ranker.schema.events],
            )
        )

    @staticmethod
    def _number(kind: str, name: str, request: ScoringRequest) -> float:
        if kind == "activity":
            profile = (request.profiles or {}).get(name)
            mass = 0.0 if profile is None else profile.mass
            if not 0 <= mass < math.inf:
                raise bad_value(f"mass of profile {name}", mass, "finite and >= 0")
            return math.log1p(mass)
        value = request.context.get(name)
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            raise bad_value(f"context {name}", value, "a number") from None
        if math.isinf(number):
            raise bad_value(f"context {name}", number, "finite, or missing")
        return number


def _gathered(rows: Floats, index: npt.NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(rows[index])
