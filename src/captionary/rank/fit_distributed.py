"""A distributed training in a folder: begun, logged, kept, and continued where it was killed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from captionary.errors import bad_value
from captionary.rank.course import check_same, run
from captionary.rank.distributed import DistributedTrainer
from captionary.rank.fit_settings import FitConfig
from captionary.rank.processes import Processes
from captionary.rank.shards import Shards
from captionary.rank.state import (
    checkpoint_folder,
    checkpoints,
    clean,
    is_sharded,
    latest,
    prune,
    read_said,
)
from captionary.stages import locked

__all__ = ["FittedParts", "fit_distributed"]


class FittedParts(NamedTuple):
    """What a distributed training gave."""

    checkpoint: Path
    """The last one; `captionary.rank.sharded_state.gather_checkpoint` makes one process's of it."""
    samples_per_second: float
    """Of all processes together; nan where no steps were left."""
    plan: str
    """Which process keeps which rows of each table."""


def fit_distributed(
    shards: Shards,
    out: Path,
    config: FitConfig,
    seed: int = 0,
    *,
    team: Processes,
    start: Path | None = None,
    reading: str = "own",
    placement: Mapping[str, str] | None = None,
    say: Callable[[dict[str, Any]], None] = lambda _: None,
) -> FittedParts:
    """Train in the folder `out`, which all processes see, or continue what is there; all processes call it.

    Args:
        shards: what to learn from.
        out: gets checkpoints/, log.jsonl and, where asked for, tensorboard/.
        config: of ranker, optimizers and stream.
        seed: of all that is random.
        team: the processes, see `processes`.
        start: a checkpoint, or the folder of a training whose last one is taken, to begin with: of one process or of
            many.
        reading: `own` impressions, or `all` of them, see `captionary.rank.portions`.
        placement: table → table_wise or row_wise; the planner chooses for the others.
        say: is given every line of the log, in the first process.

    Raises:
        CaptionaryError: another training is in `out`, or other processes at it; see `DistributedTrainer`.
    """
    with locked(out) if team.rank == 0 else nullcontext():
        earlier = Path(team.first(str(latest(start)))) if start is not None else None
        identity = {
            "shards": shards.fingerprint,
            "seed": seed,
            "start": None if earlier is None else read_said(earlier).named,
            "processes": team.world,
            "reading": reading,
        }
        if team.rank == 0:
            clean(out)
        kept = team.first([str(path) for path in checkpoints(out)])
        resumed, log_bytes = Path(kept[-1]) if kept else None, 0
        if resumed is not None:
            if not is_sharded(resumed):
                rule = "a folder without checkpoints of one process"
                raise bad_value("out", str(out), rule, where=str(resumed), todo="choose another --out")
            said = read_said(resumed)
            check_same(said.identity, said.config, identity, config, out)
            log_bytes = said.progress.log_bytes
        trainer = DistributedTrainer(
            shards,
            config,
            seed,
            team,
            resumed=resumed,
            start=earlier if resumed is None else None,
            reading=reading,
            placement=placement,
        )

        def save(folder: Path, log_bytes: int) -> None:
            trainer.save(folder, identity, log_bytes)
            if team.rank == 0:
                prune(out, config.stream.keep)

        speed = run(trainer, out, save, log_bytes=log_bytes, first=team.rank == 0, say=say)
        return FittedParts(checkpoint_folder(out, trainer.done), speed, trainer.plan)
