"""The marketplace: everything of a world together, its log as a data set, its users for live simulation.

    world = World(WorldConfig.tiny())
    world.respond(users, items, day, rng)          # closed loop: what would they do?
    make_world(WorldConfig(), Path("demo"))        # the log of a past policy, in the data contract

Users, items and days are counted from 0; in the data set, users and items have these numbers as ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from captionary.contract import DatasetSpec, Split, atomic_folder, write_spec, write_table
from captionary.spec import Columns
from captionary.world.catalogue import draw_catalogue
from captionary.world.log import LogPart, item_facts_table, items_table, log_part
from captionary.world.pictures import write_pictures
from captionary.world.policy import Policy
from captionary.world.randomness import Stream, generator
from captionary.world.responses import Context, ResponseModel, Responses
from captionary.world.settings import WorldConfig
from captionary.world.tasks import EVENTS, TASKS
from captionary.world.tastes import Tastes
from captionary.world.traffic import draw_visits, impressions_by_day
from captionary.world.users import draw_users

__all__ = ["World", "WorldConfig", "make_world"]

_CHUNK = 200_000  # impressions drawn at once
_SHARD = 1_000_000  # impressions in a file, about
_PILOT = 20_000  # impressions that calibrate the base rates


class World:
    """A marketplace in memory: catalogue, users, tastes and the truth about responses.

    Not for several threads at once: tastes move with the day that is asked for.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.catalogue = draw_catalogue(config)
        self.users = draw_users(config)
        self.tastes = Tastes(config, self.catalogue)
        self.truth = ResponseModel(config, self.catalogue, self.users, self.tastes)
        rng = generator(config.seed, Stream.PILOT)
        visits = draw_visits(rng, self.users, _PILOT)
        item = Policy(config, self.catalogue).choose(rng, self.tastes, 0, visits.user, visits.surface)
        self.truth.calibrate(visits.user, item, 0, Context(visits.surface, visits.hour))

    def respond(
        self,
        user_idx: npt.NDArray[np.integer],
        item_idx: npt.NDArray[np.integer],
        day: int,
        rng: np.random.Generator,
        context: Context | None = None,
    ) -> Responses:
        """Let N users respond to N items on a day, as in the log: see `ResponseModel.respond`."""
        return self.truth.respond(user_idx, item_idx, day, rng, context)

    def log(self) -> Iterator[LogPart]:
        """Play the logging policy from the first day to the last, chunk by chunk."""
        policy = Policy(self.config, self.catalogue)
        first = 0
        for day, total in enumerate(impressions_by_day(self.config)):
            for part, begin in enumerate(range(0, total, _CHUNK)):
                rngs = [
                    generator(self.config.seed, stream, day, part)
                    for stream in (Stream.TRAFFIC, Stream.POLICY, Stream.RESPONSE)
                ]
                visits = draw_visits(rngs[0], self.users, int(min(_CHUNK, total - begin)))
                item = policy.choose(rngs[1], self.tastes, day, visits.user, visits.surface)
                context = Context(visits.surface, visits.hour)
                responses = self.respond(visits.user, item, day, rngs[2], context)
                policy.observe(item, np.asarray(responses.labels.any(axis=1)))
                yield log_part(self.config, self.users, day, part, first, visits, item, responses)
                first += len(item)
            policy.end_day()


def make_world(config: WorldConfig, out: Path, progress: bool = False) -> Path:
    """Write the log of a world as a data set in the contract, pictures and truth included.

    Args:
        config: the world; the same config writes the same bytes.
        out: folder to make, or one that was made here before.
        progress: show bars on stderr.

    Returns:
        `out`.

    Raises:
        CaptionaryError: `out` holds foreign files or cannot be written.
    """
    with atomic_folder(out) as folder:
        world = World(config)
        media = None
        if config.pictures:
            paint = write_pictures(world.catalogue.scenes, config.items, folder)
            media = list(tqdm(paint, "pictures", world.catalogue.size, unit="img", disable=not progress))
        write_table(items_table(config, world.catalogue, media), folder / "items.parquet")
        write_table(item_facts_table(world.catalogue), folder / "truth" / "items.parquet")
        with tqdm(total=config.impressions, desc="impressions", unit_scale=True, disable=not progress) as bar:
            for number, shard in enumerate(_shards(world.log(), bar)):
                write_table(shard.impressions, folder / "impressions" / f"{number:05d}.parquet")
                write_table(shard.events, folder / "events" / f"{number:05d}.parquet")
                write_table(shard.truth, folder / "truth" / f"impressions-{number:05d}.parquet")
        write_spec(_spec(config), folder)
    return out


def _shards(parts: Iterator[LogPart], bar: tqdm[Any]) -> Iterator[LogPart]:
    """Parts put together until they fill a file."""
    held: list[LogPart] = []
    for part in parts:
        held.append(part)
        bar.update(part.impressions.num_rows)
        if sum(p.impressions.num_rows for p in held) >= _SHARD:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(parts: list[LogPart]) -> LogPart:
    return LogPart(*(pa.concat_tables(tables).unify_dictionaries() for tables in zip(*parts, strict=True)))


def _spec(config: WorldConfig) -> DatasetSpec:
    return DatasetSpec(
        name="world",
        tasks=tuple(task.spec for task in TASKS),
        splits={"time": Split(column="split", kind="time")},
        default_split="time",
        event_types=EVENTS,
        context=Columns(categorical=("hour", "surface", "device")),
        text=("title",),
        license="Simulated. Pictures are composed of OpenMoji artwork, CC BY-SA 4.0",
        source=f"captionary.world, seed {config.seed}, semantic_strength {config.semantic_strength:g}",
    )
