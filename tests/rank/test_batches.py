import itertools

import numpy as np

from captionary.rank import kernels
from captionary.rank.batches import Source, draw_epoch, share_lists
from captionary.rank.features import FeatureSet
from captionary.represent.jagged import Jagged

ALL = FeatureSet(visual=True, tokens="A", profiles="A")


def test_rows_are_shuffled_within_windows_of_time():
    drawn = draw_epoch(np.arange(100, 110), seed=0, epoch=0, window=5, unseen_users=0.0, unseen_items=1.0)
    assert sorted(drawn.order[:5]) == [100, 101, 102, 103, 104]
    assert sorted(drawn.order[5:]) == [105, 106, 107, 108, 109]
    assert drawn.unseen_item.all()
    assert not drawn.unseen_user.any()
    assert draw_epoch(np.arange(9), 0, 0, 1, 0.0, 0.0).order.tolist() == list(range(9))


def test_some_rows_of_a_user_stay_side_by_side_in_time_order():
    users = np.array([4, 2, 4, 9, 2, 4, 9, 4, 2, 2])
    drawn = draw_epoch(np.arange(10), 0, 0, 7, 0.0, 0.0, users=users, together=2)
    assert sorted(drawn.order[:7]) == list(range(7))
    firsts = "".join(map(str, drawn.order[:7]))
    for block in ("02", "5", "14", "36"):  # of users 4, 4, 2 and 9
        assert block in firsts
    orders = {
        tuple(draw_epoch(np.arange(7), seed, 0, 7, 0.0, 0.0, users=users, together=7).order)
        for seed in range(40)
    }
    assert orders == {  # users 4, 2 and 9, in any turn
        tuple(row for block in blocks for row in block)
        for blocks in itertools.permutations([(0, 2, 5), (1, 4), (3, 6)])
    }


def test_order_and_unseen_ids_depend_on_seed_and_pass():
    train = np.arange(2000)
    first, again, other = (draw_epoch(train, seed, 0, 500, 0.02, 0.02) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.order, other.order)
    assert not np.array_equal(first.order, draw_epoch(train, 0, 1, 500, 0.02, 0.02).order)
    assert 10 <= first.unseen_user.sum() <= 80
    assert not np.array_equal(first.unseen_user, first.unseen_item)


def one(lists, place):
    start, end = lists.offsets[place : place + 2].tolist()
    return lists.values[start:end].tolist(), lists.weights[start:end].tolist()


def test_a_batch_holds_each_item_once_and_each_row_its_own_lists(data):
    rows = np.array([5, 5999, 5, 17])
    batch = Source(data, ALL, np.zeros(4), np.ones(4)).batch(rows)
    assert len(batch.visual) == len(np.unique(data.item[rows]))
    np.testing.assert_array_equal(batch.visual[batch.place], data.visual[data.item[rows]])
    for row, place in zip(rows, batch.place.tolist(), strict=True):
        assert one(batch.tokens, place)[0] == data.item_tokens["A"].row(data.item[row]).tolist()
    np.testing.assert_allclose(one(batch.tokens, 0)[1], [1 / 3] * 3, rtol=1e-6)
    lists = data.profiles["A"]
    for row, places in zip(rows, batch.profile_place.tolist(), strict=True):
        for name, place in zip(("like", "share"), places, strict=True):
            assert one(batch.profiles, place)[0] == lists[name].row(row).tolist()


def test_lists_that_are_the_same_are_kept_once():
    first = Jagged(
        np.int32([3, 7, 3, 7, 3, 7]), np.array([0, 2, 2, 4, 6]), np.float32([0.5, 0.5] * 2 + [0.5, 0.25])
    )
    second = Jagged(np.int32([3, 7, 9, 9]), np.array([0, 2, 3, 3, 4]), np.float32([0.5, 0.5, 1, 1]))
    lists, list_of = share_lists([first, second], np.array([3, 1, 0, 2]))
    assert lists.rows == 4  # [3 7] even, [3 7] uneven, [], [9]
    assert len({*list_of[[0, 2], 0], list_of[0, 1]}) == 1
    assert list_of[1, 0] == list_of[2, 1]
    assert list_of[1, 1] == list_of[3, 1]
    for event, whole in enumerate((first, second)):
        kept = lists.take(list_of[:, event])
        np.testing.assert_array_equal(kept.values, whole.values)
        np.testing.assert_array_equal(kept.weights, whole.weights)
        np.testing.assert_array_equal(kept.offsets, whole.offsets)


def test_lists_of_one_digest_that_differ_are_not_taken_for_the_same(monkeypatch):
    lists = Jagged(np.int32([1, 2]), np.array([0, 1, 2]), np.float32([1, 1]))
    monkeypatch.setattr(kernels, "digest_lists", lambda values, offsets, bits: np.zeros(2, np.uint64))
    kept, list_of = share_lists([lists], np.arange(2))
    assert kept.take(list_of[:, 0]).values.tolist() == [1, 2]


def test_unseen_ids_keep_their_content(data):
    rows = np.arange(4)
    marks = np.array([True, False, False, False])
    batch = Source(data, ALL, np.zeros(4), np.ones(4)).batch(rows, marks, ~marks)
    assert batch.ids["user"].tolist() == [0, *data.user[1:4]]
    assert batch.ids["item"].tolist() == [data.item_id[data.item[0]], 0, 0, 0]
    assert batch.visual.shape[1] == 8
