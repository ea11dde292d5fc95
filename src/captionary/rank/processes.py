"""The processes that train one ranker together, as each of them sees them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from captionary.rank.devices import choose_device

__all__ = ["Processes", "processes"]

_ALONE = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}


class Processes(NamedTuple):
    """The processes that train together, as one of them sees them."""

    rank: int
    world: int
    local_world: int
    """On this machine."""
    device: torch.device

    def first(self, value: Any) -> Any:
        """What the first process has, for all."""
        said = [value if self.rank == 0 else None]
        dist.broadcast_object_list(said, src=0)
        return said[0]


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Meet the processes that `torchrun` or Ray Train started, or be alone: NCCL between GPUs, gloo between CPUs.

    Args:
        device: auto, cpu or cuda, see `choose_device`; of the GPUs of a machine each process gets one.

    Raises:
        CaptionaryError: see `choose_device`, as with more processes than GPUs on a machine that has some.
    """
    # Before the group: on import, the group that there is becomes a default of their functions and is never freed. Then
    # gloo's threads live on, and one that frees a tensor while the interpreter ends aborts the process, with all
    # training done ("terminate called without an active exception").
    import torch.distributed.nn.functional
    import torch.distributed.optim

    said = {name: int(os.environ.get(name, one)) for name, one in _ALONE.items()}
    rank, world, local, local_world = said.values()
    chosen = choose_device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    joined = dist.is_initialized()
    if not joined:
        kind = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(kind)
        else:
            store = dist.HashStore()  # type: ignore[attr-defined]  # which torch documents, and its __all__ lacks
            dist.init_process_group(kind, store=store, rank=0, world_size=1)
    try:
        yield Processes(rank, world, local_world, chosen)
    finally:
        if not joined:
            gc.collect()  # what was trained is in cycles, and holds the group
            dist.destroy_process_group()
