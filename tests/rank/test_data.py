import numpy as np
import pyarrow as pa
import pytest

from captionary.errors import CaptionaryError
from captionary.rank.data import RankingData, factorize_ids
from captionary.represent.jagged import Jagged


def test_ids_without_training_rows_share_index_0():
    index, rows = factorize_ids(pa.array(["ada", "bob", "ada", "cy", None]), np.array([0, 1, 2]))
    assert index.tolist() == [1, 2, 1, 0, 0]
    assert rows == 3


def test_rare_ids_share_index_0():
    index, rows = factorize_ids(np.array([7, 8, 7]), np.arange(3), min_rows=2)
    assert index.tolist() == [1, 0, 1]
    assert rows == 2


def test_missing_values_are_unseen_even_in_training_rows():
    assert factorize_ids(np.array([1.0, np.nan]), np.arange(2))[0].tolist() == [1, 0]
    words = pa.chunked_array([["a"], [None]]).dictionary_encode()
    assert factorize_ids(words, np.arange(2))[0].tolist() == [1, 0]


def test_cold_items_have_no_id_but_keep_their_content(data):
    assert (data.item_id[-20:] == 0).all()
    assert sorted(data.item_id[:-20]) == list(range(1, 101))
    assert data.item.max() >= 100
    assert data.numeric == ("context.hour", "item.age", "activity.like", "activity.share")
    row = np.array([5999])
    age = data.item_numeric["age"][data.item[5999]]
    expected = [data.context_numeric["hour"][5999], age, *data.activity[5999]]
    np.testing.assert_allclose(data.dense(row)[0], expected)


def broken(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {"labels": broken(f["labels"], (3, 1), -0.5)}, "label == -0.5.*row 3, share"),
        (lambda f: {"labels": broken(f["labels"], (3, 1), np.inf)}, "label == inf.*row 3, share"),
        (lambda f: {"labels": broken(f["labels"], (slice(5000), 1), np.nan)}, "training labels of share == 0"),
        (lambda f: {"labels": broken(f["labels"], (3, 1), -1), "task_kinds": ("binary", "huber_log")},
         "label == -1.0, must be finite and >= 0; row 3, share"),
        (lambda f: {"task_kinds": ("binary",)}, "task_kinds == .*one for each of 2"),
        (lambda f: {"labels": broken(f["labels"], (3, 1), 2)}, "label == 2.0"),
        (lambda f: {"labels": f["labels"][:, :1]}, "shape of labels"),
        (lambda f: {"context_numeric": {"hour": broken(f["context_numeric"]["hour"], 9, np.inf)}},
         "context column hour == inf, must be finite; row 9"),
        (lambda f: {"activity": broken(f["activity"], (2, 0), np.nan)}, "activity == nan.*finite; row 2"),
        (lambda f: {"visual": broken(f["visual"], (4, 0), -np.inf)}, "visual == -inf, must be finite; row 4"),
        (lambda f: {"item": broken(f["item"], 0, 120)}, "item == 120, must be from 0 to 119"),
        (lambda f: {"user": broken(f["user"], 0, -1)}, "user == -1"),
        (lambda f: {"eval": np.array([4999])}, "eval row == 4999"),
        (lambda f: {"train": np.array([], np.int64)}, "train rows == 0"),
        (lambda f: {"activity": None}, "activity == absent"),
        (lambda f: {"item_tokens": {"A": Jagged.from_lists([[1]])}}, "lists of item tokens A == 1, must"),
        (lambda f: {"item_tokens": {"A": Jagged.from_lists([[-1]] * 120)}}, "id of item tokens A == -1"),
        (lambda f: {"profiles": {"A": {"lik": Jagged.from_lists([[]] * 6000)}}}, "like \\(did you mean"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields, change, message):
    with pytest.raises(CaptionaryError, match=message):
        RankingData(**{**fields, **change(fields)})
