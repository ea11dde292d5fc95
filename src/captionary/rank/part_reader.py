"""A training's checkpoint, of one process or of many, read a part at a time: no process need hold a whole table."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from captionary.errors import CaptionaryError, bad_value
from captionary.rank.checkpoint import load_vocabularies, read_config
from captionary.rank.features import Schema
from captionary.rank.settings import RankerConfig
from captionary.rank.sharded_state import load_into, read_about
from captionary.rank.state import SHARDED, is_sharded, read_said
from captionary.rank.vocabulary import Vocabulary

__all__ = ["PartReader"]

_FILES = {"ranker": "ranker/model.safetensors", "optimizers": "optimizers.safetensors"}


class PartReader:
    """What `save_checkpoint` or `save_sharded` wrote; of the latter, all processes read alike.

    Args:
        folder: the checkpoint.
        verify: whether the weights of one process's checkpoint are compared with their digest, which reads them all:
            for one of the processes.

    Raises:
        CaptionaryError: no checkpoint, or one that is damaged.
    """

    sizes: dict[str, tuple[int, ...]]
    """Shape of each tensor: `ranker.NAME` and `optimizers.NAME`, as in `captionary.rank.sharded_state`."""

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        self.folder, self.said, self.sharded = folder, read_said(folder), is_sharded(folder)
        try:
            if self.sharded:
                known = FileSystemReader(folder / SHARDED).read_metadata().state_dict_metadata
                self.sizes = {
                    name: tuple(kept.size)
                    for name, kept in known.items()
                    if isinstance(kept, TensorStorageMetadata)
                }
                return
            self.sizes = {}
            for kind, path in _FILES.items():
                with safe_open(folder / path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - no mapping
                        self.sizes[f"{kind}.{name}"] = tuple(file.get_slice(name).get_shape())
            if verify:
                self._verify()
        except (OSError, ValueError, KeyError, SafetensorError, CheckpointException) as error:
            raise self._damaged(error) from None

    def ranker(self) -> tuple[RankerConfig, Schema]:
        """Config and sizes of the ranker."""
        if self.sharded:
            return self.said.config.ranker, read_about(self.folder)[1]
        return read_config(self.folder / "ranker")

    def vocabularies(self) -> dict[str, Vocabulary]:
        """How raw ids became rows of its tables."""
        if self.sharded:
            found: dict[str, Vocabulary] = read_about(self.folder)[0]["vocabularies"]
            return found
        return load_vocabularies(self.folder / "ranker")

    def read(self, state: dict[str, Any]) -> None:
        """Fill tensors, or of a `ShardedTensor` this process's parts, in place.

        Args:
            state: name, as in `sizes` → what to fill, of that size.

        Raises:
            CaptionaryError: the checkpoint is damaged.
        """
        if self.sharded:
            load_into(self.folder, state)
            return
        try:
            for kind, path in _FILES.items():
                with safe_open(self.folder / path, framework="pt") as file:
                    for name, into in state.items():
                        if not name.startswith(f"{kind}."):
                            continue
                        given = name.removeprefix(f"{kind}.")
                        if not hasattr(into, "local_shards"):
                            into.copy_(file.get_tensor(given))
                            continue
                        for shard in into.local_shards():
                            start = shard.metadata.shard_offsets[0]
                            rows = file.get_slice(given)[start : start + len(shard.tensor)]
                            shard.tensor.copy_(rows)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise self._damaged(error) from None

    def _verify(self) -> None:
        said = json.loads((self.folder / "ranker" / "config.json").read_text(encoding="utf-8"))
        with (self.folder / _FILES["ranker"]).open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if said.get("weights") not in (None, found):
            raise ValueError("its weights are not those that config.json was written with")

    def _damaged(self, error: BaseException) -> CaptionaryError:
        where = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        rule = "a whole checkpoint of captionary fit or train"
        return bad_value("checkpoint", str(self.folder), rule, where=where)
