from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionary.errors import CaptionaryError
from captionary.represent.jagged import Jagged

LISTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=4), max_size=6)


def lists_of(jagged: Jagged) -> list[list[int]]:
    return [jagged.row(index).tolist() for index in range(jagged.rows)]


def test_from_lists_packs_values_and_offsets() -> None:
    jagged = Jagged.from_lists([[7, 3], [], [5]])
    assert jagged.values.tolist() == [7, 3, 5]
    assert jagged.values.dtype == np.int32
    assert jagged.offsets.tolist() == [0, 2, 2, 3]
    assert jagged.offsets.dtype == np.int64
    assert jagged.rows == 3
    assert jagged.lengths.tolist() == [2, 0, 1]


def test_row_counts_from_the_end_and_knows_its_bounds() -> None:
    jagged = Jagged.from_lists([[7, 3], [], [5]])
    assert jagged.row(-1).tolist() == [5]
    assert jagged.row(-3).tolist() == [7, 3]
    for index in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            jagged.row(index)


@given(lists=LISTS, data=st.data())
def test_take_is_indexing(lists: list[list[int]], data: st.DataObject) -> None:
    size = len(lists)
    rows = data.draw(st.lists(st.integers(-size, size - 1), max_size=8) if size else st.just([]))
    jagged = Jagged.from_lists(lists)
    weighted = jagged._replace(weights=np.arange(len(jagged.values), dtype=np.float32))
    taken = weighted.take(np.array(rows, dtype=np.int64))
    assert lists_of(taken) == [lists[row] for row in rows]
    assert taken.weights is not None
    named = Jagged(
        np.arange(len(jagged.values), dtype=np.int32), jagged.offsets
    )  # values that are their weights
    assert taken.weights.tolist() == [value for row in rows for value in named.row(row).tolist()]


def test_take_with_a_mask() -> None:
    jagged = Jagged.from_lists([[7, 3], [], [5], [1]])
    assert lists_of(jagged.take(np.array([True, False, False, True]))) == [[7, 3], [1]]


@given(lists=LISTS, chunk=st.integers(1, 3))
def test_arrow_round_trip_through_chunks_and_slices(lists: list[list[int]], chunk: int) -> None:
    jagged = Jagged.from_lists(lists)
    ids, weights = jagged._replace(weights=np.arange(len(jagged.values), dtype=np.float32)).to_arrow()
    assert ids.type == pa.list_(pa.int32())
    assert weights.type == pa.list_(pa.float32())
    cuts = range(0, max(len(lists), 1), chunk)
    chunked_ids = pa.chunked_array([ids.slice(cut, chunk) for cut in cuts])
    chunked_weights = pa.chunked_array([weights.slice(cut, chunk) for cut in cuts])
    back = Jagged.from_arrow(chunked_ids, chunked_weights)
    assert lists_of(back) == lists
    assert back.offsets.tolist() == jagged.offsets.tolist()
    assert back.weights is not None
    assert back.weights.tolist() == list(range(len(jagged.values)))
    assert back.values.dtype == np.int32
    assert back.weights.dtype == np.float32
    assert back.offsets.dtype == np.int64


def test_from_arrow_reads_nulls_and_large_lists() -> None:
    assert lists_of(Jagged.from_arrow(pa.array([[1], None, [2, 3]], pa.list_(pa.int32())))) == [
        [1],
        [],
        [2, 3],
    ]
    assert lists_of(Jagged.from_arrow(pa.array([[1], [2]], pa.large_list(pa.int64())))) == [[1], [2]]
    empty = Jagged.from_arrow(pa.chunked_array([], pa.list_(pa.int32())))
    assert empty.rows == 0
    assert empty.values.dtype == np.int32


@pytest.mark.parametrize(
    ("token_ids", "weights", "message"),
    [
        (pa.array([[2**31]], pa.list_(pa.int64())), None, "must be list<int32>"),
        (pa.array([["dog"]]), None, "must be list<int32>"),
        (pa.array([1, 2]), None, "token_ids == int64, must be list<int32>"),
        (pa.array([[1, None]]), None, "token_ids == null"),
        (pa.array([[1], [2, 3]]), pa.array([[0.5, 0.5], [1.0]]), "as long as token_ids"),
    ],
)  # fmt: skip
def test_from_arrow_refuses(token_ids: pa.Array, weights: pa.Array | None, message: str) -> None:
    with pytest.raises(CaptionaryError, match=message):
        Jagged.from_arrow(token_ids, weights)


def test_to_arrow_refuses_more_than_its_offsets_count() -> None:
    many = Jagged(np.empty(0, np.int32), np.array([0, 2**31]))
    with pytest.raises(CaptionaryError, match=r"2\^31"):
        many.to_arrow()
