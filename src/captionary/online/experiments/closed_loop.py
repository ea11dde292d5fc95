"""Experiments on the simulated world: users respond to what each arm's ranker shows; the analysis says what it saw.

    visits ──6 candidates each──▶ every arm's ranker picks one ──▶ the truth's chance of a response, arm by arm
                                                                         │ once
    ─────────────────────────────────────────────────────────────────────┼──────────────────────────────────────
                                                                         │ for every run
    salt ──Assigner──▶ arm of each user ──▶ responses drawn ──▶ Measures ──▶ looks, decisions, comparison

What an arm would show on a visit and how likely it is answered does not depend on other users, on the arm's past, or
on responses: popularity is not learnt here, tastes do not follow what was shown, and an arm belongs to a user for the
whole experiment. So nothing is carried over between arms, and all randomness of a run is in who has which arm and how
each visit is answered: both are drawn anew. Everything after the draw is the code that analyses real logs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import expit

from captionary.errors import bad_value
from captionary.online.experiments.assignment import NOBODY, Assigner, user_keys
from captionary.online.experiments.exposure import Exposed
from captionary.online.experiments.measures import DAY, Entries, Log, Measures
from captionary.online.experiments.settings import Experiment, Experiments, Layer
from captionary.world.log import START
from captionary.world.market import World
from captionary.world.responses import Context
from captionary.world.tasks import TASKS
from captionary.world.traffic import draw_visits

__all__ = ["ClosedLoop", "Ranker", "Run", "Shown", "Slate", "blurred_oracle", "planted"]

Floats = npt.NDArray[np.float32]
_TASK_NAMES = tuple(task.name for task in TASKS)


class Slate(NamedTuple):
    """V visits of one day, and what could be shown on each: what a ranker scores."""

    user: npt.NDArray[np.int64]
    """[V] Index of the user."""
    items: npt.NDArray[np.int64]
    """[V, C] Indices of the candidates."""
    day: int
    """Since the world's log began."""
    context: Context
    """Page and hour, [V] each."""
    logit: Floats
    """[V, C] The truth: log odds of a response. For oracles only."""
    noise: Floats
    """[V, C] Standard normal draws, the same for every ranker, so that two differ by their skill alone."""


Ranker = Callable[[Slate], Floats]
"""Scores of candidates, [V, C]; the highest is shown. A trained model comes in as such a function."""


class Shown(NamedTuple):
    """What an arm shows on every visit, as far as a run needs it."""

    chance: Floats
    """[N] Of a response, N visits in order of time."""


class Run(NamedTuple):
    """One experiment that was run."""

    measures: Measures
    """By user, as from a log."""
    exposed: Exposed
    """Who saw which arm since when."""
    responses: int
    """Positive responses of users in the experiment, before and after exposure."""


def blurred_oracle(blur: float) -> Ranker:
    """A ranker that knows the truth through noise of that standard deviation, logits; 0 knows it exactly."""

    def score(slate: Slate) -> Floats:
        return np.asarray(slate.logit + np.float32(blur) * slate.noise, np.float32)

    return score


def planted(loop: ClosedLoop, control: float, uplift: float) -> float:
    """The blur of a treatment whose expected responses are `uplift` more than those of a control's blur.

    Args:
        loop: the world's visits.
        control: blur of the control.
        uplift: relative, such as 0.02; below 0 for harm.

    Raises:
        CaptionaryError: not even the exact truth gains so much, or no blur harms so much.
    """
    base = loop.expected(loop.show(blurred_oracle(control)))
    low, high = (0.0, control) if uplift >= 0 else (control, control * 100 + 100)
    reach = loop.expected(loop.show(blurred_oracle(low if uplift >= 0 else high))) / base - 1
    if abs(reach) < abs(uplift):
        raise bad_value("uplift", uplift, f"{reach:.3g} at most, what is there to gain or lose")
    for _ in range(30):
        middle = (low + high) / 2
        if loop.expected(loop.show(blurred_oracle(middle))) / base - 1 > uplift:
            low = middle  # less blur gains more
        else:
            high = middle
    return (low + high) / 2


class ClosedLoop:
    """A world's visits with their candidates, and experiments on them."""

    def __init__(
        self,
        world: World,
        *,
        days: int = 14,
        before: int = 7,
        visits_per_day: int = 20_000,
        candidates: int = 6,
        task: str = "time_spent",
        seed: int = 0,
    ) -> None:
        """Draw the visits, which are those of days after the world's log ends.

        Args:
            world: users and items.
            days: length of every experiment.
            before: days before it, under the control's ranker: what CUPED takes off.
            visits_per_day: impressions of a day, all users together.
            candidates: items that a ranker chooses among on a visit, drawn by their makers' reach.
            task: the response that is the primary metric.
            seed: of visits, candidates and noise.

        Raises:
            CaptionaryError: the world has no such task.
        """
        if task not in _TASK_NAMES:
            raise bad_value("task", task, f"one of {', '.join(_TASK_NAMES)}")
        self.world, self.days, self.before = world, days, before
        first = world.config.days
        self._task = _TASK_NAMES.index(task)
        begin = int(START.astype("datetime64[us]").astype(np.int64)) + first * DAY
        self.slates: list[Slate] = []
        times = []
        for day in range(before + days):
            rng = np.random.default_rng([seed, day])
            slate, moments = self._slate(rng, first + day, visits_per_day, candidates)
            self.slates.append(slate)
            times.append(begin + day * DAY + moments)
        self.start = begin + before * DAY
        """The moment the experiment begins, microseconds since 1970."""
        self.user = np.concatenate([slate.user for slate in self.slates])
        """[N] User of each visit, in order of time."""
        self.time = np.concatenate(times)
        """[N] Microseconds since 1970."""
        self.keys = user_keys(range(world.users.size))
        self._names = [str(user) for user in range(world.users.size)]
        self._ids = pl.Series("user_id", self._names)
        counted = self.time >= self.start
        first_visit = np.full(world.users.size, np.iinfo(np.int64).max)
        np.minimum.at(first_visit, self.user[counted], self.time[counted])
        self._first = first_visit

    @property
    def visitors(self) -> int:
        """Users who come at all while an experiment runs."""
        return int((self._first < np.iinfo(np.int64).max).sum())

    def show(self, ranker: Ranker) -> Shown:
        """What the ranker shows on every visit.

        Raises:
            CaptionaryError: scores of another shape than the candidates'.
        """
        parts = []
        for slate in self.slates:
            scores = ranker(slate)
            if scores.shape != slate.items.shape:
                raise bad_value("scores", scores.shape, f"of the candidates' shape, {slate.items.shape}")
            best = np.argmax(scores, axis=1)[:, None]
            parts.append(expit(np.take_along_axis(slate.logit, best, axis=1)[:, 0]))
        return Shown(np.concatenate(parts).astype(np.float32))

    def expected(self, shown: Shown) -> float:
        """Responses to expect while an experiment runs, were everybody shown that."""
        return float(shown.chance[self.time >= self.start].sum(dtype=np.float64))

    def run(self, experiment: Experiment, arms: tuple[Shown, ...], *, number: int) -> Run:
        """Run the experiment once: users dealt anew, visits answered anew.

        Args:
            experiment: its primary metric has to be ``response``, counted; its range says how many users take part.
            arms: what each arm shows; the first, the control, is shown to all users before the experiment.
            number: of the run; seeds the salt and the responses.
        """
        layer = Layer(name="closed-loop", experiments=(experiment,))
        assigner = Assigner(Experiments(salt=f"run-{number}", layers=(layer,)))
        found = assigner.assign_many(self._names, experiment.name, keys=self.keys)
        taking = (found.arm != NOBODY) & (self._first < np.iinfo(np.int64).max)
        row = np.cumsum(taking) - 1
        rng = np.random.default_rng(number)
        chance = arms[0].chance
        during = self.time >= self.start
        for index, shown in enumerate(arms[1:], 1):
            mine = during & (found.arm == index)[self.user]
            chance = np.where(mine, shown.chance, chance)
        answered = (rng.random(len(chance), dtype=np.float32) < chance) & taking[self.user]
        entries = Entries(row[self.user[answered]], self.time[answered], np.ones(int(answered.sum())))
        exposed = Exposed(
            experiment=experiment.name,
            arms=found.arms,
            users=self._ids.filter(pl.Series(taking)),
            arm=found.arm[taking],
            first=self._first[taking],
            contaminated=0,
            forced=0,
            repeated=0,
        )
        measures = Measures.of_entries(exposed, experiment, {("response", False): entries})
        return Run(measures, exposed, int(answered.sum()))

    def end(self) -> int:
        """The moment an experiment ends, microseconds since 1970."""
        return self.start + self.days * DAY

    def to_log(self, run: Run) -> Log:
        """The run as the log that a service would have written, to be analysed from files."""
        entries = run.measures.entries("response")
        users = run.exposed.users.gather(entries.row)
        moments = pl.Series(entries.time).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        events = pl.DataFrame({"user_id": users, "event": ["response"] * len(users), "timestamp": moments})
        shown = pl.DataFrame(
            {
                "user_id": self._ids.gather(self.user),
                "timestamp": pl.Series(self.time).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            }
        )
        return Log(events, shown)

    def _slate(
        self, rng: np.random.Generator, day: int, number: int, candidates: int
    ) -> tuple[Slate, npt.NDArray[np.int64]]:
        """A day's visits, and when each takes place, microseconds of the day."""
        world = self.world
        visits = draw_visits(rng, world.users, number)
        live = world.catalogue.live(day)
        weights = np.exp(world.catalogue.reach[live])
        items = live[rng.choice(len(live), (number, candidates), p=weights / weights.sum())]
        context = Context(np.repeat(visits.surface, candidates), np.repeat(visits.hour, candidates))
        flat = world.truth.logits(np.repeat(visits.user, candidates), items.ravel(), day, context)
        logit = flat[:, self._task].astype(np.float32).reshape(number, candidates)
        noise = rng.standard_normal((number, candidates), np.float32)
        slate = Slate(visits.user, items, day, Context(visits.surface, visits.hour), logit, noise)
        return slate, visits.millisecond * 1_000
