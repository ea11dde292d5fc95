"""A distributed training in a folder: begun, logged, kept, and continued where it was killed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from captionary.config import to_mapping
from captionary.errors import bad_value
from captionary.rank.distributed import DistributedTrainer
from captionary.rank.fit_settings import FitConfig
from captionary.rank.processes import Processes
from captionary.rank.sharded_state import is_sharded, read_about
from captionary.rank.shards import Shards
from captionary.rank.state import checkpoint_folder, checkpoints, clean, prune
from captionary.rank.training_log import TrainingLog

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
        reading: `own` impressions, or `all` of them, see `captionary.rank.portions`.
        placement: table → table_wise or row_wise; the planner chooses for the others.
        say: is given every line of the log, in the first process.

    Raises:
        CaptionaryError: another training is in `out`; see `DistributedTrainer`.
    """
    identity = {
        "shards": shards.fingerprint,
        "seed": seed,
        "start": None,
        "processes": team.world,
        "reading": reading,
    }
    if team.rank == 0:
        clean(out)
    kept = team.first([str(path) for path in checkpoints(out)])
    resumed = Path(kept[-1]) if kept else None
    if resumed is not None:
        _check_same(resumed, identity, config, out)
    trainer = DistributedTrainer(
        shards, config, seed, team, resumed=resumed, reading=reading, placement=placement
    )
    stream = config.stream
    position = read_about(resumed)[0]["progress"].log_bytes if resumed is not None else 0
    rows, clock, seconds, whole = 0, time.perf_counter(), 0.0, 0
    board = out / "tensorboard" if stream.tensorboard else None
    opened = TrainingLog(out / "log.jsonl", position=position, tensorboard=board, step=trainer.done)
    with opened if team.rank == 0 else nullcontext() as log:
        for count in trainer.train():
            rows += count
            last = trainer.done == trainer.steps
            if trainer.done % stream.log_steps == 0 or last:
                passed = time.perf_counter() - clock
                line = {
                    "rows": trainer.seen,
                    "loss": trainer.mean_loss(),
                    "samples_per_second": rows / passed,
                }
                if log is not None:
                    log.write(trainer.done, line | {"learning_rate_factor": trainer.factor})
                    say({"step": trainer.done, "steps": trainer.steps, **line})
                seconds, whole = seconds + passed, whole + rows
                rows, clock = 0, time.perf_counter()
            if trainer.done % stream.checkpoint_steps == 0 or last:
                paused = time.perf_counter()
                folder = checkpoint_folder(out, trainer.done)
                trainer.save(folder, identity, log.position if log is not None else 0)
                if team.rank == 0:
                    prune(out, stream.keep)
                clock += time.perf_counter() - paused
    speed = whole / seconds if seconds else math.nan
    return FittedParts(checkpoint_folder(out, trainer.done), speed, trainer.plan)


def _check_same(kept: Path, identity: Mapping[str, Any], config: FitConfig, out: Path) -> None:
    """Refuse to continue a training with other shards, another seed, other processes or another config."""
    todo = "choose another --out, or give what it was begun with"
    if not is_sharded(kept):
        rule = "a folder without checkpoints of one process"
        raise bad_value("out", str(out), rule, where=str(kept), todo="choose another --out")
    about, _ = read_about(kept)
    for name, now in identity.items():
        was = about["identity"].get(name)
        if was != now:
            raise bad_value(name, now, f"{was}, as of the training there", where=str(out), todo=todo)
    before, after = to_mapping(about["config"]), to_mapping(config)
    for group in ("ranker", "optimizer", "features"):
        for name in after[group]:
            if before[group].get(name) != after[group][name]:
                rule = f"{before[group].get(name)}, as of the training there"
                raise bad_value(f"{group}.{name}", after[group][name], rule, where=str(out), todo=todo)
