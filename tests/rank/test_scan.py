"""Vocabularies of shards: those that the same rows give in memory, capped and hashed alike."""

import dataclasses

import numpy as np
import pytest
from tests.rank.tiny_fit import CONFIG
from tests.rank.tiny_shards import HOUR, catalogue, impressions, tiny_schema, write_shards

from captionary.errors import CaptionaryError
from captionary.rank.data import RankingData
from captionary.rank.scan import scan, schema_of

CAPPED = {"id_min_rows": 15, "category_min_rows": 200}
HASHED = {"id_hash_rows": 9, "category_hash_rows": 5}


@pytest.fixture(scope="module")
def table():
    return impressions(600, range(40), range(60))


@pytest.fixture(scope="module")
def shards(table, tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("scan") / "shards", table, group_rows=130)


def config(**ranker):
    return dataclasses.replace(CONFIG, ranker=dataclasses.replace(CONFIG.ranker, **ranker))


@pytest.mark.parametrize("rules", [{}, CAPPED, HASHED], ids=["all", "capped", "hashed"])
def test_rows_are_those_of_the_same_data_in_memory(shards, table, rules):
    found = scan(shards, shards.items(), config(**rules), stop=599).vocabularies
    items = catalogue(60, tiny_schema())
    place = {name: row for row, name in enumerate(items["item_id"].to_pylist())}
    data = RankingData.from_arrays(
        tasks=("like",),
        users=table["user_id"],
        item=np.array([place[name] for name in table["item_id"].to_pylist()]),
        items=60,
        item_keys=items["item_id"],
        train=np.arange(599),
        eval=np.array([599]),
        labels=table["label.like"].to_numpy()[:, None],
        context_categorical={"tab": table["context.tab"]},
        item_categorical={"genre": items["item.genre"]},
        min_rows=rules.get("id_min_rows", 1),
        hash_rows=rules.get("id_hash_rows", 0),
        category_min_rows=rules.get("category_min_rows", 1),
        category_hash_rows=rules.get("category_hash_rows", 0),
    )
    keys = {
        "user": table["user_id"], "item": items["item_id"],
        "context.tab": table["context.tab"], "item.genre": items["item.genre"],
    }  # fmt: skip
    for name, raw in keys.items():
        ours, theirs = found[name], data.vocabularies[name]
        assert ours.rows == theirs.rows, name
        assert (ours.index(raw) > 0).tolist() == (theirs.index(raw) > 0).tolist(), name
        assert ours.seed == theirs.seed, name
    rare = {name for name, raw in keys.items() if (found[name].index(raw) == 0).any()}
    assert rare == ({"user", "item", "item.genre"} if rules is CAPPED else set())
    assert all(vocabulary.rows > 1 for vocabulary in found.values())


def test_categories_are_counted_on_through_the_days(shards, tmp_path):
    rules = config(category_min_rows=400)
    first = scan(shards, shards.items(), rules).vocabularies
    assert first["context.tab"].rows == 1  # some 300 rows each
    later = write_shards(tmp_path / "later", impressions(600, range(40), range(60), seed=3, begins=24 * HOUR))
    found = scan(later, later.items(), rules, first).vocabularies
    assert found["context.tab"].rows == 3
    assert schema_of(later, found, rules).context == {"tab": 3}
    kept = scan(later, later.items(), config(category_min_rows=5000), found).vocabularies
    assert (
        kept["context.tab"].index(["home", "search", "else"]).tolist()
        == found["context.tab"].index(["home", "search", "else"]).tolist()
    )
    with pytest.raises(
        CaptionaryError, match="category_hash_rows == 5, must be 0, as in the earlier training"
    ):
        scan(later, later.items(), config(category_hash_rows=5), found)
