"""The last step of ingest: what rankers fold of new items, and how soon it was visible."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from captionary.errors import CaptionaryError
from captionary.online.items import ItemRecord
from captionary.online.updates import ItemUpdate
from captionary.represent.jagged import Jagged

__all__ = ["ItemColumns", "Latencies", "RowFolder", "item_features", "with_rows"]

_KEPT = 1000


class RowFolder(Protocol):
    """What makes an item's row for one version of the ranker; `rank.served.ServingRanker` is one."""

    version: str

    def fold(self, items: Any) -> npt.NDArray[np.float32]:
        """Rows [n, R] of `rank.served.ItemFeatures` of n items."""
        ...


class ItemColumns(NamedTuple):
    """Further columns of an item that the ranker reads, as the data set's `item_features` name them."""

    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()


def item_features(records: Sequence[ItemRecord], columns: ItemColumns) -> Any:
    """`rank.served.ItemFeatures` of items; what an item lacks is unseen, NaN or empty."""
    from captionary.rank.served import ItemFeatures

    sizes = {len(record.vector) // 4 for record in records if record.vector}
    visual = None
    if len(sizes) == 1:
        visual = np.full((len(records), *sizes), np.nan, np.float32)
        for row, record in enumerate(records):
            if (vector := record.visual) is not None:
                visual[row] = vector
    return ItemFeatures(
        ids=[record.item_id for record in records],
        categorical={name: [record.columns.get(name) for record in records] for name in columns.categorical},
        numeric={
            name: np.array([_number(record.columns.get(name)) for record in records], np.float64)
            for name in columns.numeric
        },
        visual=visual,
        tokens=Jagged.from_lists([record.token_ids for record in records]),  # type: ignore[misc]
    )


def with_rows(
    records: Sequence[ItemRecord], folders: Sequence[RowFolder], columns: ItemColumns
) -> tuple[list[ItemUpdate], list[str]]:
    """What to write into the store, and what went wrong: what a ranker cannot fold is ranked by its id alone."""
    rows: list[dict[str, npt.NDArray[np.float32]]] = [{} for _ in records]
    faults: list[str] = []
    for folder in folders:
        made = _folded(records, folder, columns, faults)
        for of_item, row in zip(rows, made, strict=True):
            if row is not None:
                of_item[folder.version] = row
    return [ItemUpdate(record, of_item) for record, of_item in zip(records, rows, strict=True)], faults


def _folded(
    records: Sequence[ItemRecord], folder: RowFolder, columns: ItemColumns, faults: list[str]
) -> Sequence[npt.NDArray[np.float32] | None]:
    if not records:
        return []
    try:
        return list(np.asarray(folder.fold(item_features(records, columns)), np.float32))
    except CaptionaryError as error:
        if len(records) > 1:  # one item's columns must not cost the others their rows
            return [_folded([record], folder, columns, faults)[0] for record in records]
        faults.append(f"item {records[0].item_id}, ranker {folder.version}: {error}")
        return [None]


def _number(value: object) -> float:
    if isinstance(value, bool | int | float):
        return float(value)
    return float("nan")


class Latencies:
    """Seconds from upload to visible, of the last thousand items."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_KEPT)

    def add(self, seconds: float) -> None:
        """One item more."""
        self._seconds.append(seconds)

    def quantiles(self) -> Mapping[str, float]:
        """`p50`, `p95`, `p99` in seconds; empty where nothing was ingested."""
        if not self._seconds:
            return {}
        found = np.quantile(np.array(self._seconds), [0.5, 0.95, 0.99])
        return dict(zip(("p50", "p95", "p99"), (round(float(q), 4) for q in found), strict=True))
