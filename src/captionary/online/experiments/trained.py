"""Rankers of a finished run as the closed loop's: exported, and scored by the code that serves.

Profiles are those at the end of the run's log and stay so: as in `closed_loop`, nothing that is shown changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.errors import bad_value, nearest
from captionary.online.experiments.closed_loop import ClosedLoop, Ranker, Slate
from captionary.online.site import Site
from captionary.rank.served import ScoringRequest, ServingRanker
from captionary.represent.profiles import ProfileList, build_profiles
from captionary.represent.tables import read_item_tokens
from captionary.settings import RunConfig
from captionary.world.market import World
from captionary.world.traffic import SURFACES
from captionary.world.users import DEVICES, Users

__all__ = ["Interests", "interests_of", "trained", "world_of"]

Interests = list[Mapping[str, ProfileList]]
"""Per user of the world: event type → list."""


def world_of(run: RunConfig) -> World:
    """The world that a run's log is of, to live on after it.

    Raises:
        CaptionaryError: the run is of a data set of its own, whose users cannot be asked.
    """
    if run.data.world is None:
        raise bad_value(
            "data", str(run.data.path), "a simulated world: its users can be asked", where=run.name
        )
    return World(run.data.world)


def interests_of(run: RunConfig, loop: ClosedLoop) -> Interests:
    """Every user's profiles at the moment that the loop's visits begin, by the builder of the training data."""
    site = Site(run)
    ids, tokens = read_item_tokens(run.folder / "tokens" / site.letter / "item_tokens.parquet")
    users = loop.world.users.size
    begin = int(loop.time[0] - loop.time[0] % 86_400_000_000)
    asked = pa.table(
        {"user_id": pa.array(range(users), pa.int64()), "timestamp": pa.array([begin] * users, pa.int64())}
    )
    config, idf = site.profiles, site.tokenizer.idf().astype(np.float32)
    built = build_profiles(site.history(), asked, ids, tokens, config, idf, types=config.event_types)
    found: Interests = []
    for user in range(users):
        lists = {}
        for event, made in built.items():
            assert made.lists.weights is not None
            piece = slice(made.lists.offsets[user], made.lists.offsets[user + 1])
            lists[event] = ProfileList(
                made.lists.values[piece], made.lists.weights[piece], float(made.mass[user])
            )
        found.append(lists)
    return found


def trained(folder: Path, interests: Interests, users: Users, *, task: str = "time_spent") -> Ranker:
    """An exported ranker as a function from slates to scores of a task.

    Args:
        folder: what `captionary export` wrote.
        interests: see `interests_of`.
        users: of the world, for their devices.
        task: that is ranked by: the loop's.

    Raises:
        CaptionaryError: the ranker does not predict the task, or reads columns that the world does not have.
    """
    served = ServingRanker.load(folder)
    if task not in served.tasks:
        raise bad_value("task", task, nearest(task, served.tasks), where=str(folder))
    column = served.tasks.index(task)
    mine = [{event: one[event] for event in served.events if event in one} for one in interests]

    def score(slate: Slate) -> npt.NDArray[np.float32]:
        found = np.empty(slate.items.shape, np.float32)
        for visit, (user, items) in enumerate(zip(slate.user.tolist(), slate.items.tolist(), strict=True)):
            asked = ScoringRequest(
                user=user,
                items=items,
                context={
                    "hour": int(slate.context.hour[visit]),
                    "surface": SURFACES[slate.context.surface[visit]],
                    "device": DEVICES[users.device[user]],
                },
                profiles=mine[user],
            )
            found[visit] = served.score(asked)[:, column]
        return found

    return score
