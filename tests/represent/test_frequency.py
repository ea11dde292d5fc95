from __future__ import annotations

import datetime
import math

import numpy as np
import pyarrow as pa
import pytest

from captionary.errors import CaptionaryError
from captionary.represent.frequency import created_before, inverse_document_frequency
from captionary.represent.jagged import Jagged

TOKENS = Jagged.from_lists([[0, 0, 1], [1], [], [2, 1]])


def test_frequencies_of_known_items_alone() -> None:
    known = np.array([True, True, True, False])
    expected = [math.log((1 + 3) / (1 + df)) + 1 for df in (1, 2, 0, 0)]
    assert inverse_document_frequency(TOKENS, known, 4).tolist() == pytest.approx(expected)
    assert len(inverse_document_frequency(TOKENS, known)) == 3
    assert inverse_document_frequency(Jagged.from_lists([[]]), np.array([True])).tolist() == []


def test_a_later_item_changes_nothing() -> None:
    known = np.array([True, True, False, False])
    other = Jagged.from_lists([[0, 0, 1], [1], [2, 2], [0]])
    assert np.array_equal(
        inverse_document_frequency(TOKENS, known, 3), inverse_document_frequency(other, known, 3)
    )


def test_items_created_before_a_moment() -> None:
    created = pa.array([1, 5, None, 9], pa.timestamp("us", "UTC"))
    assert created_before(created, 5).tolist() == [True, False, True, False]
    moment = datetime.datetime(1970, 1, 1, 0, 0, 0, 9, tzinfo=datetime.UTC)
    assert created_before(pa.chunked_array([created]), moment).tolist() == [True, True, True, False]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CaptionaryError, match="known == "):
        inverse_document_frequency(TOKENS, np.array([True]))
    with pytest.raises(CaptionaryError, match="vocabulary == 2, must be >= 3"):
        inverse_document_frequency(TOKENS, np.ones(4, np.bool_), 2)
    with pytest.raises(CaptionaryError, match="must be a datetime with a time zone"):
        created_before(pa.array([1], pa.timestamp("us")), datetime.datetime(1970, 1, 1))
