"""The distributed trainings of the tests: small, with every kind of penalty, every step logged."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from captionary.rank.fit_settings import FitConfig, OptimizerConfig, StreamConfig
from captionary.rank.settings import RankerConfig

RANKER = RankerConfig(
    epochs=1,
    batch_size=128,
    shuffle_window=500,
    embedding_dim=6,
    top=(16,),
    tower=4,
    embedding_damping=0.01,
    embedding_decay=0.01,
)


def config(table: str = "rowwise_adagrad", **ranker: Any) -> FitConfig:
    """With another optimizer of tables, or other fields of the ranker."""
    return FitConfig(
        ranker=dataclasses.replace(RANKER, **ranker),
        optimizer=OptimizerConfig(table=table),
        stream=StreamConfig(log_steps=1, checkpoint_steps=4, keep=9),
    )


# A thread of gloo's that is still there when the interpreter ends can abort the process: then an hour's training fails.
_ENDED = """
from pathlib import Path
left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in left if "gloo" in name], left
"""


def torchrun(program: str, folder: Path, *words: str) -> None:
    """Run a program in two processes; all that they say is in the error where one of them fails.

    Args:
        program: in Python; when it is done, no thread of the group's is left.
        folder: gets the program.
        words: its arguments.
    """
    path = folder / "program.py"
    path.write_text(program + _ENDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [*command, str(path), *words],
        env=os.environ | {"PYTHONPATH": paths, "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-20_000:]
