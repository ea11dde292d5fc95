"""Where a ranker is trained: on the CPU or on a CUDA device; the way of batches there, and its random numbers.

On a CPU, lookups, bags and tables' optimizers are compiled loops (`captionary.rank.kernels`); on any other device they
are operations of torch, which give the same to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from typing import Any

import torch
from torch import Tensor

from captionary.errors import bad_value, nearest
from captionary.rank.stream import Stream

__all__ = ["CPU", "DEVICES", "choose_device", "forked", "moved", "to_device"]

CPU = torch.device("cpu")
DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str = "auto", number: int = 0) -> torch.device:
    """The device of a name; `auto` is a CUDA device where there is one.

    Args:
        name: one of `DEVICES`.
        number: which of this machine's CUDA devices.

    Raises:
        CaptionaryError: another name, or cuda where torch sees fewer devices.
    """
    if name not in DEVICES:
        raise bad_value("device", name, nearest(name, DEVICES))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return CPU
    if not count:
        built = torch.version.cuda
        where = f"torch {torch.__version__} sees no CUDA device" if built else "torch is built without CUDA"
        raise bad_value(
            "device", name, "cpu or auto", where=where, todo="see https://pytorch.org/get-started"
        )
    if number >= count:
        rule = f"at most {count}, one for each GPU of this machine"
        raise bad_value("processes on this machine", f"{number + 1} or more", rule, todo="or --device cpu")
    return torch.device("cuda", number)


def to_device(part: Any, device: torch.device) -> Any:
    """A batch, or any nest of tuples and mappings of tensors, on a device; what lies in pinned memory is on its way."""
    return _each(part, lambda tensor: tensor.to(device, non_blocking=True))


def moved(source: Stream, device: torch.device) -> Stream:
    """The batches of `source` on a device, to be made in the background: CUDA copies from pinned memory, which needs
    the processor only to begin. Copies are in the default stream, as the steps that wait for them."""
    if device.type == "cpu":
        return source
    return _moved(source, device)


def forked(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn or seeded inside leaves the caller's random numbers alone, on the CPU and on `device`."""
    found: AbstractContextManager[None] = torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    )
    return found


def _moved(source: Stream, device: torch.device) -> Stream:
    with closing(source):  # and with it the file that is being read
        for batch in source:
            yield to_device(_each(batch, Tensor.pin_memory), device)


def _each(part: Any, change: Any) -> Any:
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(_each(each, change) for each in part))
    if isinstance(part, tuple):
        return tuple(_each(each, change) for each in part)
    if isinstance(part, Mapping):
        return {name: _each(each, change) for name, each in part.items()}
    return part
