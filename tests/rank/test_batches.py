import numpy as np

from captionary.rank.batches import Source, draw_epoch
from captionary.rank.features import FeatureSet

ALL = FeatureSet(visual=True, tokens="A", profiles="A")


def test_rows_are_shuffled_within_windows_of_time():
    drawn = draw_epoch(np.arange(100, 110), seed=0, epoch=0, window=5, unseen_users=0.0, unseen_items=1.0)
    assert sorted(drawn.order[:5]) == [100, 101, 102, 103, 104]
    assert sorted(drawn.order[5:]) == [105, 106, 107, 108, 109]
    assert drawn.unseen_item.all()
    assert not drawn.unseen_user.any()
    assert draw_epoch(np.arange(9), 0, 0, 1, 0.0, 0.0).order.tolist() == list(range(9))


def test_order_and_unseen_ids_depend_on_seed_and_pass():
    train = np.arange(2000)
    first, again, other = (draw_epoch(train, seed, 0, 500, 0.02, 0.02) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.order, other.order)
    assert not np.array_equal(first.order, draw_epoch(train, 0, 1, 500, 0.02, 0.02).order)
    assert 10 <= first.unseen_user.sum() <= 80
    assert not np.array_equal(first.unseen_user, first.unseen_item)


def test_a_batch_holds_each_item_once_and_each_row_its_own_lists(data):
    rows = np.array([5, 5999, 5, 17])
    batch = Source(data, ALL, np.zeros(4), np.ones(4)).batch(rows)
    distinct = np.unique(data.item[rows])
    assert len(batch.visual) == len(distinct)
    np.testing.assert_array_equal(distinct[batch.place.numpy()], data.item[rows])
    lists = data.profiles["A"]
    for place, row in enumerate(rows):
        for event, name in enumerate(("like", "share")):
            start, end = batch.profiles.offsets[2 * place + event : 2 * place + event + 2].tolist()
            assert batch.profiles.values[start:end].tolist() == lists[name].row(row).tolist()
    tokens = data.item_tokens["A"].row(distinct[1])
    start, end = batch.tokens.offsets[1:3].tolist()
    assert batch.tokens.values[start:end].tolist() == tokens.tolist()
    np.testing.assert_allclose(batch.tokens.weights[start:end], [1 / 3] * 3, rtol=1e-6)


def test_unseen_ids_keep_their_content(data):
    rows = np.arange(4)
    marks = np.array([True, False, False, False])
    batch = Source(data, ALL, np.zeros(4), np.ones(4)).batch(rows, marks, ~marks)
    assert batch.ids["user"].tolist() == [0, *data.user[1:4]]
    assert batch.ids["item"].tolist() == [data.item_id[data.item[0]], 0, 0, 0]
    assert batch.visual.shape[1] == 8
