import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.rank.lookup import Lookup
from captionary.rank.vocabulary import Vocabulary


def test_known_ids_have_their_row_and_others_row_zero():
    lookup = Lookup(Vocabulary.fit(["ada", "bob", "ada", None]), "user")
    assert [lookup.row(key) for key in ("ada", "bob", "cy", None, float("nan"))] == [1, 2, 0, 0, 0]
    assert lookup.rows(["bob", "cy", "ada"]).tolist() == [2, 0, 1]
    assert lookup.rows(np.array(["bob", "ada"])).tolist() == [2, 1]
    assert lookup.rows([]).tolist() == []
    assert len(lookup) == 2


def test_numbers_come_as_python_and_numpy_give_them():
    lookup = Lookup(Vocabulary.fit(np.array([30, 10])), "item")
    assert lookup.rows(np.array([10, 30, 11])).tolist() == [2, 1, 0]
    assert [lookup.row(np.int32(10)), lookup.row(10.0), lookup.row(np.int64(11))] == [2, 2, 0]


@pytest.mark.parametrize(("known", "key"), [([1, 2], "1"), (["1"], 1), ([1], [1]), ([1], 1.5), ([5], True)])
def test_a_key_of_another_type_is_refused(known, key):
    lookup = Lookup(Vocabulary.fit(known), "item")
    with pytest.raises(CaptionaryError, match=r"must be an? (integer|string), as in training"):
        lookup.row(key)
    with pytest.raises(CaptionaryError, match="as in training"):
        lookup.rows([*known, key])


def test_hashed_ids_are_hashed():
    vocabulary = Vocabulary(hash_rows=50, seed=3)
    lookup = Lookup(vocabulary, "user")
    assert lookup.rows(["a", "b", None]).tolist() == vocabulary.index(["a", "b", None]).tolist()
    assert lookup.row("a") > 0
