"""Profiles on a Ray cluster: users dealt into shards, each built where it lands by the same code.

A user's lists depend on that user's events alone, so that no shard knows of another and the result is that of one
process, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captionary.errors import CaptionaryError, bad_value
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import IdCodes, ids_of
from captionary.represent.profiles import ProfileConfig, Profiles, build_profiles

__all__ = ["build_on_ray"]


def build_on_ray(
    events: pa.Table,
    impressions: pa.Table,
    item_ids: pa.Array | npt.NDArray[Any] | Sequence[Any],
    item_tokens: Jagged,
    config: ProfileConfig,
    idf: npt.NDArray[np.float32] | None = None,
    *,
    shards: int | None = None,
) -> dict[str, Profiles]:
    """`build_profiles` with users dealt into shards; arguments, result and errors are the same.

    Args:
        events, impressions, item_ids, item_tokens, config, idf: see `profiles.build_profiles`.
        shards: tasks, each of one CPU; None: twice the CPUs of the cluster. No result depends on it.

    Raises:
        CaptionaryError: Ray is not installed; as `build_profiles`.
    """
    try:
        import ray
    except ImportError:
        raise bad_value("engine", "ray", "installed", todo="pip install 'captionary[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    # A type may be missing from a shard and still be one of the log: the whole log decides which there are.
    types = config.types_among(pc.unique(events["event"].combine_chunks()).drop_null().to_pylist())
    count = shards or max(1, 2 * int(_resources(ray).get("CPU", 1)))
    read_users = ids_of(impressions["user_id"], "user_id of impressions")
    users = IdCodes(pc.unique(read_users))
    of_read = users.codes(read_users, "user_id") % count
    event_users = users.codes(ids_of(events["user_id"], "user_id of events"), "user_id of events")
    of_event = np.where(event_users >= 0, event_users % count, -1)  # others are read by nobody
    shared = ray.put((item_ids, item_tokens, config, types, idf))
    build = ray.remote(num_cpus=1, max_retries=2)(_build_shard)
    rows = [np.flatnonzero(of_read == shard) for shard in range(count)]
    wanted = [
        name for name in ("user_id", "item_id", "event", "timestamp", "value") if name in events.column_names
    ]
    logs, reads = events.select(wanted), impressions.select(["user_id", "timestamp"])
    done = ray.get(
        [
            build.remote(logs.take(np.flatnonzero(of_event == shard)), reads.take(rows[shard]), shared)
            for shard in range(count)
        ]
    )
    errors = [part for part in done if isinstance(part, str)]
    parts = [part for part in done if not isinstance(part, str)]
    if errors:
        raise CaptionaryError(errors[0])
    place = np.argsort(np.concatenate(rows), kind="stable")
    return {name: _gather([part[name] for part in parts], place) for name in types}


def _resources(ray: Any) -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()
    return found


def _build_shard(
    events: pa.Table, impressions: pa.Table, shared: tuple[Any, ...]
) -> dict[str, Profiles] | str:
    """One task; a user's mistake as its message, because Ray would wrap the error."""
    item_ids, item_tokens, config, types, idf = shared
    try:
        return build_profiles(events, impressions, item_ids, item_tokens, config, idf, threads=1, types=types)
    except CaptionaryError as error:
        return str(error)


def _gather(parts: list[Profiles], place: npt.NDArray[np.int64]) -> Profiles:
    """The lists of all shards one after the other, then in the order of the impressions."""
    sizes = np.cumsum([0, *(len(part.lists.values) for part in parts)])
    offsets = [part.lists.offsets[1:] + size for part, size in zip(parts, sizes[:-1], strict=True)]
    values = np.concatenate([part.lists.values for part in parts])
    weights = [part.lists.weights for part in parts if part.lists.weights is not None]
    lists = Jagged(values, np.concatenate([np.zeros(1, np.int64), *offsets]), np.concatenate(weights))
    return Profiles(lists.take(place), np.concatenate([part.mass for part in parts])[place])
