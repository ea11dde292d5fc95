import numpy as np
import pytest

from captionary.online.decisions import forget_item
from captionary.online.explorer.catalogue import Catalogue, Postings
from captionary.represent.jagged import Jagged


def test_the_nearest_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    lists = [rng.choice(20, rng.integers(0, 6)).tolist() for _ in range(200)]  # repeats and empty ones too
    idf = rng.uniform(0.5, 3, 20).astype(np.float32)
    postings = Postings(Jagged.from_lists(lists), idf)
    for token in range(20):
        assert postings.of(token).tolist() == [n for n, one in enumerate(lists) if token in one]
    assert postings.of(99).tolist() == []
    squares = idf.astype(float) ** 2

    def likeness(one, other):
        both = set(one) & set(other)
        size = lambda tokens: sum(squares[token] for token in set(tokens)) ** 0.5  # noqa: E731
        return sum(squares[token] for token in both) / size(one) / size(other) if both else 0.0

    for query in lists[:20]:
        found = postings.nearest(query, 10)
        expected = sorted((likeness(query, other) for other in lists), reverse=True)[: len(found)]
        assert [likeness(query, lists[n]) for n in found] == pytest.approx(expected)
        assert len(found) == min(10, sum(likeness(query, other) > 0 for other in lists))


def test_an_upload_is_near_at_once_and_a_forgotten_item_is_gone(start, monkeypatch):
    site = start()
    catalogue = Catalogue(site.services)
    first = site.upload(3001, "a dog on a sofa", (1, 2))
    assert [record.item_id for record in catalogue.newest(5)] == [3001]
    site.upload(3002, "a dog on a sofa again", (1, 2))
    monkeypatch.setattr("captionary.online.explorer.catalogue._LOOK_SECONDS", 0)
    near = catalogue.nearest(first, 3)
    assert near[0].record.item_id == 3002
    assert near[0].likeness == pytest.approx(1)
    assert near[0].shared == (2, 1)  # the rarer word first
    assert [record.item_id for record in catalogue.newest(5)] == [3002, 3001]
    assert {3001, 3002} <= {record.item_id for record in catalogue.sample(12, 0)}
    forget_item(site.services.store, 3002)
    assert 3002 not in [one.record.item_id for one in catalogue.nearest(first, 30)]
    assert [record.item_id for record in catalogue.newest(5)] == [3001]


def test_a_sample_is_the_same_for_a_seed_and_without_what_was_seen(site):
    catalogue = Catalogue(site.services)
    ids = [record.item_id for record in catalogue.sample(12, 3)]
    assert ids == [record.item_id for record in Catalogue(site.services).sample(12, 3)]
    assert ids != [record.item_id for record in catalogue.sample(12, 4)]
    assert len(set(ids)) == 12
    seen = set(ids[:6])
    assert not seen & {record.item_id for record in catalogue.sample(12, 3, seen)}


def test_items_with_a_word_are_those_whose_tokens_have_it_now(site):
    catalogue = Catalogue(site.services)
    records, total = catalogue.with_word(1, 0, 100)
    assert 0 < len(records) <= total
    assert all(1 in record.token_ids for record in records)
    paged = [record for at in range(0, total, 2) for record in catalogue.with_word(1, at, 2)[0]]
    assert [record.item_id for record in paged] == [record.item_id for record in records]


def test_no_page_goes_through_the_store(site, monkeypatch):
    """However many items and users there are: what a page reads is bounded by what it shows."""
    engine, asked = site.services.store.engine, []
    read, scan = engine.read, engine.scan

    def counted(keys):
        asked.append(len(keys))
        return read(keys)

    def stepped(prefix, after=b""):
        for taken, key in enumerate(scan(prefix, after), 1):
            assert taken <= 60
            yield key

    monkeypatch.setattr(engine, "read", counted)
    monkeypatch.setattr(engine, "scan", stepped)
    for path in (
        *("/explore", "/explore/users", "/explore/items", "/explore/items?word=dog", "/explore/item?id=1001"),
        *("/explore/feed?user=u1", "/explore/user?id=u1", "/explore/ingest", "/explore/experiments"),
    ):
        asked.clear()
        assert site.get(path).status_code == 200
        assert sum(asked) < 1500, path
        assert len(asked) < 30, path
