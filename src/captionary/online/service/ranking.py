"""One ranking request, from ids to scores: runs in a thread, asks no captioner, and answers whatever is missing.

arm ──▶ ranker ──▶ features of the store, one round trip ──▶ scores ──▶ combined ──▶ (why)
                        └── no answer: no profile, rows of the export; counted, and said in the answer
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value, nearest
from captionary.online.keyvalue import StoreUnavailableError
from captionary.online.packing import Id
from captionary.online.request_log import RequestRecord, served
from captionary.online.service.arms import Choice, Trials
from captionary.online.service.breaker import Breaker
from captionary.online.service.rankers import Loaded, Rankers
from captionary.online.service.recording import Recorder
from captionary.online.service.telemetry import Telemetry
from captionary.online.service.types import Arm, Explain, Explained, Model, Pair, RankAnswer, RankRequest
from captionary.online.service.words import Words
from captionary.online.store import OnlineStore
from captionary.rank.served import ScoringRequest
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileList

__all__ = ["Ranking"]

Floats = npt.NDArray[np.float32]


class _Features(NamedTuple):
    """What the store, or what stands in for it, says for a request."""

    lists: Mapping[str, ProfileList]
    """Of all event types."""
    rows: Floats
    present: npt.NDArray[np.bool_]
    """[C] whether the row is the store's."""
    sequence: int
    """-1: the store did not answer."""


class Ranking:
    """Ranks; any number of threads may call it at once.

    Args:
        rankers: by name.
        store: of features.
        trials: who gets which ranker.
        words: for explanations.
        telemetry: where stages and fallbacks are counted.
        breaker: over the store.
        combine: task → weight in the combined score; none: all tasks alike.
        recorder: the request log.
    """

    def __init__(
        self,
        rankers: Rankers,
        store: OnlineStore,
        trials: Trials,
        words: Words,
        telemetry: Telemetry,
        breaker: Breaker,
        combine: Mapping[str, float],
        recorder: Recorder | None = None,
    ) -> None:
        self.rankers, self.store, self.trials, self.words = rankers, store, trials, words
        self.telemetry, self.breaker, self.recorder = telemetry, breaker, recorder
        self._combine = self._weights(combine or dict.fromkeys(rankers.tasks, 1.0))

    def encoded(self, request: RankRequest) -> bytes:
        """`rank`, as JSON."""
        answer = self.rank(request)
        with self.telemetry.stage("encode"):
            return msgspec.json.encode(answer)

    def rank(self, request: RankRequest, *, ranker: str | None = None) -> RankAnswer:
        """Score a request's candidates.

        Args:
            request: who is asked about what.
            ranker: one by name, whatever the experiments say, and nothing is logged: for pages that show what an arm
                would do.

        Raises:
            CaptionaryError: ids of another type, columns, tasks or experiments that are none, an infinite number.
        """
        telemetry, missing = self.telemetry, dict[str, int]()
        with telemetry.stage("assign"):
            choice = self.trials.choose(request.user, request.variant) if ranker is None else Choice(ranker)
            chosen = self.rankers[choice.ranker]
            context, vectors = self._read_by(chosen, request, missing)
            weights = self._weights(request.combine) if request.combine else self._combine
        as_of = time.time_ns() // 1000
        with telemetry.stage("features"):
            features = self._features(chosen, request, as_of, missing)
        profiles = {event: one for event, one in features.lists.items() if event in chosen.events}
        asked = ScoringRequest(
            user=request.user, rows=features.rows, context=context, profiles=profiles, vectors=vectors
        )
        with telemetry.stage("score"):
            scores = chosen.ranker.score(asked)
            combined = scores @ weights
            order = np.argsort(-combined, kind="stable")
        explanations = None
        if request.explain is not None:
            with telemetry.stage("explain"):
                explanations = self._explain(chosen, asked, request.items, order, request.explain)
        number = uuid.uuid4().hex
        telemetry.candidates.observe(len(request.items))
        for reason in missing:
            telemetry.fallbacks.labels(reason).inc()
        if ranker is None:
            telemetry.ranked.labels(chosen.name).inc()
            for one in self.trials.expose(request.user, choice):
                telemetry.exposures.labels(one.experiment, one.arm).inc()
            # What cannot be done again offline is not kept: without the store, or with vectors that the record has not.
            replayable = features.sequence >= 0 and not vectors
            if self.recorder is not None and replayable and self.recorder.wants():
                self.recorder.keep(
                    RequestRecord(
                        request_id=number,
                        user_id=request.user,
                        as_of=as_of,
                        sequence=features.sequence,
                        version=chosen.version,
                        item_ids=list(request.items),
                        scores=scores.tolist(),
                        lists=served(features.lists),
                        present=features.present.tolist(),
                        context=context,
                        arm=next((one.arm for one in choice.assignments if one.arm), ""),
                    )
                )
        return RankAnswer(
            request_id=number,
            model=Model(name=chosen.name, version=chosen.version),
            experiments=[
                Arm(
                    experiment=one.experiment,
                    arm=one.arm,
                    reason=one.reason,
                    version=choice.versions.get(one.experiment, ""),
                )
                for one in choice.assignments
            ],
            as_of=datetime.fromtimestamp(as_of / 1e6, UTC),
            scores={task: scores[:, place].tolist() for place, task in enumerate(self.rankers.tasks)},
            combined=combined.tolist(),
            order=order.tolist(),
            degraded=missing,
            explanations=explanations,
        )

    def _features(
        self, chosen: Loaded, request: RankRequest, as_of: int, missing: dict[str, int]
    ) -> _Features:
        """Profiles and item rows; what is missing is noted in `missing`."""
        user, items, ranker = request.user, request.items, chosen.ranker
        self.rankers.check_items(items)
        if user is None:
            missing["no_user"] = 1
        else:
            self.rankers.check_user(user)
            if not chosen.knows_user(user):
                missing["unknown_user"] = 1
        lists: Mapping[str, ProfileList] = {}
        rows, present = np.zeros((len(items), ranker.row_width), np.float32), np.zeros(len(items), np.bool_)
        sequence = -1
        if self.breaker.may_try():
            try:
                # A user id that nobody has: there is one round trip, whoever asks.
                read = self.store.read(
                    "(nobody)" if user is None else user,
                    items,
                    as_of,
                    version=ranker.version,
                    width=ranker.row_width,
                )
                self.breaker.succeeded()
                rows, present, sequence = read.rows, read.present, read.sequence
                if user is not None:
                    lists = read.lists
                    if chosen.events and not any(one.mass for one in lists.values()):
                        missing["no_profile"] = 1
            except StoreUnavailableError:
                self.breaker.failed()
        if sequence < 0:
            missing["store_unavailable"] = 1
        rows, of_export, unknown = chosen.fill(items, rows, present)
        if of_export:
            missing["row_of_export"] = of_export
        if unknown:
            missing["unknown_item"] = unknown
        return _Features(lists, rows, present, sequence)

    def _read_by(
        self, chosen: Loaded, request: RankRequest, missing: dict[str, int]
    ) -> tuple[dict[str, Any], dict[str, Floats]]:
        """The request's context and vectors, without what only other arms' rankers read."""
        for what, given, known in (
            ("context column", request.context, self.rankers.context),
            ("vector", request.vectors, self.rankers.vectors),
        ):
            for name in given:
                if name not in known:
                    raise bad_value(what, name, nearest(name, known), where="request")
        context = {name: value for name, value in request.context.items() if name in chosen.context}
        if len(context) < len(request.context):
            missing["unknown_context"] = len(request.context) - len(context)
        vectors = {
            name: np.array(value, np.float32)
            for name, value in request.vectors.items()
            if name in chosen.vectors
        }
        return context, vectors

    def _weights(self, combine: Mapping[str, float]) -> Floats:
        """float32 [T]."""
        for task in combine:
            if task not in self.rankers.tasks:
                raise bad_value("task", task, nearest(task, self.rankers.tasks), where="combine")
        return np.array([combine.get(task, 0.0) for task in self.rankers.tasks], np.float32)

    def _explain(
        self,
        chosen: Loaded,
        asked: ScoringRequest,
        items: Sequence[Id],
        order: npt.NDArray[np.intp],
        how: Explain,
    ) -> list[Explained]:
        """Which words met, for the best candidates."""
        best = order[: how.items].tolist()
        assert asked.rows is not None
        found = chosen.ranker.explain(
            asked._replace(rows=asked.rows[best]),
            task=how.task,
            top=how.pairs,
            tokens=self._tokens(chosen, [items[place] for place in best]),
        )
        return [
            Explained(
                item=items[place],
                task=one.task,
                score=one.score,
                pairs=[
                    Pair(
                        event=pair.event,
                        profile=self.words.word(pair.profile_token),
                        item=self.words.word(pair.item_token),
                        contribution=pair.contribution,
                        share=pair.share,
                    )
                    for pair in one.pairs
                ],
            )
            for place, one in zip(best, found, strict=True)
        ]

    def _tokens(self, chosen: Loaded, items: Sequence[Id]) -> Jagged:
        """Token lists of candidates: of the store, else of the export."""
        exported = chosen.parts.tokens_of(items)
        lists = [
            exported.values[a:b] for a, b in zip(exported.offsets[:-1], exported.offsets[1:], strict=True)
        ]
        if not self.breaker.open:
            try:
                for place, record in enumerate(self.store.items(items)):
                    if record is not None:
                        lists[place] = record.token_ids
            except StoreUnavailableError:
                self.breaker.failed()
        return Jagged.from_lists(lists)  # type: ignore[arg-type]
