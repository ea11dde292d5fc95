"""What a training says while it runs: a line of JSON every so many steps, and TensorBoard scalars where asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captionary.errors import bad_value

__all__ = ["TrainingLog"]


class TrainingLog:
    """Appends to a file of JSON lines; use it as a context.

    Args:
        path: of the file.
        position: its length at the checkpoint that a training continues from: lines beyond are of steps that are done
            again, and go. 0: a new file.
        tensorboard: folder for TensorBoard's event files; None: none.
        step: of the checkpoint; what TensorBoard was told of later steps goes too.

    Raises:
        CaptionaryError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, path: Path, *, position: int = 0, tensorboard: Path | None = None, step: int = 0
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._scalars: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard.writer import SummaryWriter
            except ImportError:
                todo = "pip install 'captionary[tensorboard]'"
                raise bad_value("tensorboard", True, "false where it is not installed", todo=todo) from None
            self._scalars = SummaryWriter(str(tensorboard), purge_step=step + 1 if step else None)
        self._file = path.open("ab")
        if self._file.tell() > position:
            self._file.truncate(position)
            self._file.seek(0, os.SEEK_END)

    @property
    def position(self) -> int:
        """Length of the file so far, in bytes."""
        return self._file.tell()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Say what holds at a step; numbers become scalars of TensorBoard."""
        self._file.write(json.dumps({"step": step, **values}).encode() + b"\n")
        self._file.flush()
        if self._scalars is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._scalars.add_scalar(name, value, step)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._scalars is not None:
            self._scalars.close()
