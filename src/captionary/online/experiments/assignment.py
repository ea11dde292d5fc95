"""Which arm a user sees: decided by salted hashes alone, so every machine says the same and nobody has to remember.

    user id ──blake2b──▶ key ──mixed with a salt──▶ a number, uniform in [0, 1)

    global salt              < holdout         → outside every experiment
    layer's salt: holdout    < layer's holdout → outside the layer
    layer's salt: bucket     of 10,000         → the experiment whose range has it (one at most in a layer)
    experiment's salt: join  < ramp's share    → takes part; a growing ramp only adds users
    experiment's salt: arm                     → the arm; not touched by the ramp, so nobody ever changes arm

Each line has a salt of its own, so layers are independent, and who takes part says nothing of the arm.
A key is the blake2b digest (8 bytes, little-endian) of the id's text: 17 and "17" are the same user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from captionary.evidence.hashing import mix64
from captionary.online.experiments.settings import BUCKETS, Experiment, Experiments, Layer

__all__ = ["NOBODY", "Assigner", "Assignment", "Assignments", "Reason", "uniform", "user_keys"]

Reason = Literal["assigned", "forced", "holdout", "layer holdout", "out of range", "not joined", "stopped"]
_REASONS: tuple[Reason, ...] = get_args(Reason)
NOBODY = -1
"""Stands for "no arm" in `Assignments.arm`."""

Keys = npt.NDArray[np.uint64]


class Assignment(NamedTuple):
    """What one user gets of one experiment."""

    experiment: str
    arm: str | None
    """None: outside; the service then shows what everybody sees."""
    reason: Reason
    """Why. Exposures are logged for ``assigned`` and ``forced``."""


class Assignments(NamedTuple):
    """What N users get of one experiment."""

    experiment: str
    arms: tuple[str, ...]
    """Names of the arms."""
    arm: npt.NDArray[np.int8]
    """[N] Index into `arms`, or `NOBODY`."""
    reason_code: npt.NDArray[np.int8]
    """[N] Index into `reasons`."""

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """What the codes mean."""
        return _REASONS

    @property
    def counts(self) -> dict[str, int]:
        """Arm, or reason for none → number of users."""
        found = {name: int((self.arm == index).sum()) for index, name in enumerate(self.arms)}
        outside = self.arm == NOBODY
        for code, reason in enumerate(self.reasons):
            number = int((outside & (self.reason_code == code)).sum())
            if number:
                found[reason] = number
        return found


def user_keys(users: Iterable[Any]) -> Keys:
    """A 64-bit key of each user id, [N]; about a second for a million, and the same for every salt."""
    digest = hashlib.blake2b
    joined = b"".join(digest(str(user).encode(), digest_size=8).digest() for user in users)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


def uniform(keys: Keys, salt: str) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each key, [N], by that salt: 53 bits of a mixed hash."""
    seed = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little")
    return np.asarray((mix64(keys, seed) >> np.uint64(11)) * 2.0**-53)


class Assigner:
    """Deals users to arms; remembers nothing, so it may be made anew whenever a file changes.

    Args:
        experiments: the content of `experiments.yaml`.
        stopped: names of experiments that monitoring has stopped (`decisions.DecisionLog.stopped`): nobody has an arm
            of theirs, forced users excepted.
    """

    def __init__(self, experiments: Experiments, stopped: Collection[str] = ()) -> None:
        self.experiments = experiments
        self.stopped = frozenset(stopped)
        self.versions = {name: experiments.version(name) for name in experiments.names}
        """Experiment → see `Experiments.version`."""

    def assign(self, user: Any, experiment: str, at: datetime | None = None) -> Assignment:
        """The arm of one user, in about 0.1 ms.

        Args:
            user: an id, integer or string.
            experiment: its name.
            at: the moment, with a time zone; None for now.

        Raises:
            CaptionaryError: there is no such experiment.
        """
        many = self.assign_many([user], experiment, at)
        index = int(many.arm[0])
        arm = None if index == NOBODY else many.arms[index]
        return Assignment(experiment, arm, many.reasons[int(many.reason_code[0])])

    def assign_all(self, user: Any, at: datetime | None = None) -> dict[str, Assignment]:
        """The user's arm in every experiment: name of the experiment → assignment."""
        keys, users = user_keys([user]), [str(user)]
        found = {}
        for layer in self.experiments.layers:
            for experiment in layer.experiments:
                many = self._deal(layer, experiment, keys, users, at)
                index = int(many.arm[0])
                arm = None if index == NOBODY else many.arms[index]
                found[experiment.name] = Assignment(
                    experiment.name, arm, many.reasons[int(many.reason_code[0])]
                )
        return found

    def assign_many(
        self,
        users: Sequence[Any] | npt.NDArray[Any],
        experiment: str,
        at: datetime | None = None,
        *,
        keys: Keys | None = None,
    ) -> Assignments:
        """The arms of N users at one moment.

        Args:
            users: their ids.
            experiment: its name.
            at: the moment; None for now.
            keys: what `user_keys` said of them, where it is at hand.

        Raises:
            CaptionaryError: there is no such experiment.
        """
        layer, found = self.experiments.find(experiment)
        return self._deal(layer, found, user_keys(users) if keys is None else keys, users, at)

    def _deal(
        self, layer: Layer, experiment: Experiment, keys: Keys, users: Iterable[Any], at: datetime | None
    ) -> Assignments:
        salt = self.experiments.salt
        layer_salt = f"{salt}/layer/{layer.salt or layer.name}"
        own_salt = f"{salt}/experiment/{experiment.salt or experiment.name}"
        cuts = np.cumsum([arm.share for arm in experiment.arms])[:-1]
        arm = np.searchsorted(cuts, uniform(keys, f"{own_salt}/arm"), "right").astype(np.int8)
        reason = np.zeros(len(keys), np.int8)
        # From the weakest reason to the strongest, so that the strongest is what remains.
        joined = experiment.joined_share(at or datetime.now(UTC))
        reason[uniform(keys, f"{own_salt}/join") >= joined] = _REASONS.index("not joined")
        bucket = uniform(keys, f"{layer_salt}/bucket") * BUCKETS
        first, end = experiment.range
        reason[(bucket < first) | (bucket >= end)] = _REASONS.index("out of range")
        if layer.holdout:
            reason[uniform(keys, f"{layer_salt}/holdout") < layer.holdout] = _REASONS.index("layer holdout")
        if self.experiments.holdout:
            reason[uniform(keys, f"{salt}/holdout") < self.experiments.holdout] = _REASONS.index("holdout")
        if experiment.name in self.stopped:
            reason[:] = _REASONS.index("stopped")
        arm[reason != 0] = NOBODY
        if experiment.forced:
            names = experiment.arm_names
            for row, user in enumerate(users):
                if (chosen := experiment.forced.get(str(user))) is not None:
                    arm[row], reason[row] = names.index(chosen), _REASONS.index("forced")
        return Assignments(experiment.name, experiment.arm_names, arm, reason)
