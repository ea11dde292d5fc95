"""Which ranker a user's request goes to: by the arm they are dealt, and logged as an exposure."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.online.experiments.assignment import Assigner, Assignment
from captionary.online.experiments.decisions import DecisionLog
from captionary.online.experiments.exposure import ExposureLog
from captionary.online.experiments.settings import Experiments, load_experiments
from captionary.online.packing import Id
from captionary.online.service.settings import ServeConfig

__all__ = ["Choice", "Trials", "load_trials"]


class Choice(NamedTuple):
    """What a user gets."""

    ranker: str
    """Name."""
    assignments: tuple[Assignment, ...] = ()
    """In the experiments that choose between rankers."""
    versions: Mapping[str, str] = MappingProxyType({})
    """Experiment → version of its settings."""


class Trials:
    """Deals users to rankers; for any number of threads.

    Args:
        default: ranker of everybody outside the experiments, and of arms that `arms` does not name.
        arms: experiment → arm → ranker.
        experiments: `experiments.yaml`, read again within a second of a change; None: there are none.
        decisions: what monitoring decided, read again likewise.
        exposures: where exposures are logged; None: nowhere.

    Raises:
        CaptionaryError: an experiment or arm that the file does not have; experiments of several layers, of which
            two could choose a ranker for the same user.
    """

    def __init__(
        self,
        default: str,
        arms: Mapping[str, Mapping[str, str]] | None = None,
        *,
        experiments: Path | None = None,
        decisions: Path | None = None,
        exposures: ExposureLog | None = None,
    ) -> None:
        self.default, self.arms, self.exposures = default, dict(arms or {}), exposures
        self.path, self.decisions = experiments, None if decisions is None else DecisionLog(decisions)
        self.trouble = ""
        """Why the file on disk is not the one in use; empty where it is."""
        self._lock = threading.Lock()
        self._looked, self._stamps = time.monotonic(), self._stamped()
        self._assigner = self._load()

    @property
    def experiments(self) -> Experiments | None:
        """The content of `experiments.yaml`, as it is in use."""
        assigner = self._current()
        return None if assigner is None else assigner.experiments

    @property
    def stopped(self) -> frozenset[str]:
        """Experiments that monitoring has stopped."""
        assigner = self._current()
        return frozenset() if assigner is None else assigner.stopped

    def choose(self, user: Id | None, force: Mapping[str, str] | None = None) -> Choice:
        """The ranker for a user.

        Args:
            user: None, nobody in particular: the default.
            force: experiment → arm, whatever is drawn.

        Raises:
            CaptionaryError: `force` names an experiment or arm that is none.
        """
        assigner, forced = self._current(), dict(force or {})
        for experiment, arm in forced.items():
            if assigner is None or experiment not in self.arms:
                raise bad_value("experiment", experiment, nearest(experiment, self.arms), where="variant")
            names = assigner.experiments.find(experiment)[1].arm_names
            if arm not in names:
                raise bad_value("arm", arm, nearest(arm, names), where=f"variant: {experiment}")
        if assigner is None or (user is None and not forced):
            return Choice(self.default)
        found = []
        for experiment in self.arms:
            if experiment in forced:
                found.append(Assignment(experiment, forced[experiment], "forced"))
            elif user is not None:
                found.append(assigner.assign(user, experiment))
        # Of one layer at most one experiment draws a user; who is forced into another sees that one.
        dealt = [one for one in found if one.arm is not None]
        first = min(dealt, key=lambda one: one.reason != "forced", default=None)
        if first is None or first.arm is None:
            return Choice(self.default, tuple(found), assigner.versions)
        ranker = self.arms[first.experiment].get(first.arm, self.default)
        return Choice(ranker, (first,), assigner.versions)

    def expose(self, user: Id | None, choice: Choice) -> list[Assignment]:
        """Log that a user was ranked for by an arm's ranker; those that were not logged before."""
        if self.exposures is None or user is None:
            return []
        return [one for one in choice.assignments if self.exposures.log(user, one, trigger="rank")]

    def close(self) -> None:
        """Seal the exposure log."""
        if self.exposures is not None:
            self.exposures.close()

    def _current(self) -> Assigner | None:
        if self.path is None or time.monotonic() - self._looked < 1:
            return self._assigner
        with self._lock:
            self._looked = time.monotonic()
            if (stamps := self._stamped()) != self._stamps:
                self._stamps = stamps
                try:
                    self._assigner, self.trouble = self._load(), ""
                except CaptionaryError as error:  # users keep the arms they have until somebody mends it
                    self.trouble = str(error)
        return self._assigner

    def _stamped(self) -> tuple[object, ...]:
        paths = (self.path, None if self.decisions is None else self.decisions.path)
        return tuple(None if path is None else _stamp(path) for path in paths)

    def _load(self) -> Assigner | None:
        if self.path is None:
            return None
        experiments = load_experiments(self.path)
        layers = set()
        for name, arms in self.arms.items():
            layer, experiment = experiments.find(name)
            layers.add(layer.name)
            for arm in arms:
                if arm not in experiment.arm_names:
                    rule = nearest(arm, experiment.arm_names)
                    raise bad_value("arm", arm, rule, where=f"arms: {name}")
        if len(layers) > 1:
            rule = "of one layer: two rankers cannot both rank for a user"
            raise bad_value("experiments that choose a ranker", ", ".join(sorted(layers)), rule, where="arms")
        return Assigner(experiments, () if self.decisions is None else self.decisions.stopped())


def load_trials(config: ServeConfig) -> Trials:
    """The trials of a service's configuration."""
    if config.experiments is None:
        return Trials(config.default)
    return Trials(
        config.default,
        config.arms,
        experiments=config.experiments,
        decisions=config.decisions,
        exposures=ExposureLog(config.exposures),
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
