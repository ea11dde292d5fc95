import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.rank.served_rankers import JOINT, artefact, as_rows, raw_data, request, shaken

from captionary.errors import CaptionaryError
from captionary.rank.artefact import ItemFeatures
from captionary.rank.calibration import Calibration, TaskCalibration
from captionary.rank.data import DenseVectors
from captionary.rank.features import FeatureSet
from captionary.rank.folding import Served
from captionary.rank.served import ServingRanker
from captionary.rank.train import predict
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileList
from captionary.represent.vectors import Whitening

CANDIDATES = [3, 0, 29, 7, 12]

CONFIGS = [
    *({"interaction": kind} for kind in ("dot+fields", "dot", "dcnv2", "concat")),
    *({"towers": kind, "top": top} for kind, top in itertools.product(("mmoe", "ple"), ((24,), (24, 16)))),
    {"towers": "ple", "expert_levels": 3, "interaction": "concat"},
    {"towers": "mmoe", "interaction": "dcnv2"},
    {"profile_pooling": "attention"},
    {"profile_pooling": "sum", "token_pooling": "sum"},
    {"token_table": "hash", "hash_components": 8},
    {"bottom": (), "biases": False},
    {"interaction": "dot", "embedding_dim": 64, "top": (128,)},
    {"towers": "mmoe", "embedding_dim": 64, "top": (96,)},
]


@pytest.mark.parametrize("item_numeric", [True, False])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_scores_are_those_of_the_ranker(config, item_numeric):
    raw = raw_data(item_numeric=item_numeric)
    model = shaken(raw, **config)
    parts = artefact(raw, model)
    for served in (ServingRanker(parts), ServingRanker(parts, engine="torch")):
        for row in (0, 5, 210):
            expected = predict(model, as_rows(raw, row, CANDIDATES), JOINT, np.arange(len(CANDIDATES)))
            found = served.score(request(raw, row, CANDIDATES))
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("sizes", "by_pairs"), [({}, False), ({"embedding_dim": 64, "top": (128,)}, True)])
def test_dot_products_are_made_where_that_multiplies_less(sizes, by_pairs):
    """8 pairs of request and item fields: 8 · (64 · 4 + 128) against 64 · 4 · 128 multiplications a candidate."""
    raw = raw_data()
    served = Served(shaken(raw, **sizes), frozenset())
    assert served.by_pairs == by_pairs


@pytest.fixture(scope="module")
def raw():
    return raw_data(item_numeric=False)


@pytest.fixture(scope="module")
def parts(raw):
    return artefact(raw, shaken(raw))


@pytest.fixture(scope="module")
def served(parts):
    return ServingRanker(parts)


@pytest.mark.parametrize(
    "features",
    [
        FeatureSet(),
        FeatureSet(visual=True),
        FeatureSet(tokens="A"),
        FeatureSet(visual=True, profiles="A"),
        FeatureSet(visual=True, tokens="A", vectors=("of items", "of users")),
    ],
    ids=["ids", "visual", "tokens", "profiles", "vectors"],
)
def test_every_arm_can_be_served(raw, features):
    rng = np.random.default_rng(3)
    vectors = {
        "of items": DenseVectors(rng.normal(size=(len(raw.data.item_id), 4)).astype(np.float32)),
        "of users": DenseVectors(
            rng.normal(size=(7, 5)).astype(np.float32), rng.integers(0, 7, len(raw.data.user))
        ),
    }
    raw = dataclasses.replace(raw, data=dataclasses.replace(raw.data, vectors=vectors))
    model = shaken(raw, features)
    served = ServingRanker(artefact(raw, model, features))
    expected = predict(model, as_rows(raw, 9, CANDIDATES), features, np.arange(len(CANDIDATES)))
    mine = {"of users": vectors["of users"].values[vectors["of users"].row[9]]} if features.vectors else {}
    found = served.score(request(raw, 9, CANDIDATES, vectors=mine))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_calibrated_ranker_gives_calibrated_scores(raw):
    model = shaken(raw)
    of_task = TaskCalibration(slope=0.5, intercept=-1.0)
    model.calibration = Calibration(method="platt", tasks=dict.fromkeys(model.schema.tasks, of_task))
    plain, calibrated = ServingRanker(artefact(raw, shaken(raw))), ServingRanker(artefact(raw, model))
    assert (plain.calibrated, calibrated.calibrated) == (False, True)
    chance, seconds = plain.score(request(raw, 4))[0]
    logit = np.log(chance / (1 - chance))
    expected = [1 / (1 + np.exp(-(0.5 * logit - 1))), np.exp(0.5 * np.log(seconds) - 1)]
    np.testing.assert_allclose(calibrated.score(request(raw, 4))[0], expected, rtol=1e-4)


def test_rows_of_a_store_score_as_the_items_do(raw, served):
    items = request(raw, 3, CANDIDATES)
    rows = served.rows(items.items)
    assert rows.shape == (5, served.row_width)
    expected = served.score(items)
    np.testing.assert_array_equal(served.score(items._replace(items=None, rows=rows)), expected)
    stored = np.frombuffer(rows.tobytes(), np.float32).reshape(rows.shape)  # cannot be written
    np.testing.assert_array_equal(served.score(items._replace(items=None, rows=stored)), expected)


def test_who_and_what_is_unseen_reads_the_rows_of_the_unseen(raw, parts, served):
    asked = request(raw, 3, CANDIDATES, user="nobody", context={"tab": "z"}, profiles=None)
    model, data = parts.ranker, as_rows(raw, 3, CANDIDATES)
    empty = Jagged(np.empty(0, np.int32), np.zeros(len(data.user) + 1, np.int64), np.empty(0, np.float32))
    zeros = np.zeros_like(data.user)
    nothing = dataclasses.replace(
        raw.data,
        user=zeros,
        item=data.item,
        context_categorical={"tab": zeros},
        context_numeric={
            "hour": np.full(len(zeros), raw.data.context_numeric["hour"][raw.data.train].mean())
        },
        activity=np.zeros_like(data.activity),
        profiles={"A": {"like": empty, "share": empty}},
    )
    expected = predict(model, nothing, JOINT, np.arange(len(CANDIDATES)))
    np.testing.assert_allclose(served.score(asked), expected, rtol=1e-5, atol=1e-6)
    for user in (None, float("nan")):
        np.testing.assert_array_equal(served.score(asked._replace(user=user)), served.score(asked))


def test_an_unknown_item_is_an_unseen_one_without_content(raw, served):
    unknown = served.score(request(raw, 3)._replace(items=[1, 1003]))
    assert not np.allclose(unknown[0], unknown[1])
    blank = served.fold(ItemFeatures(ids=[1]))
    np.testing.assert_allclose(served.score(request(raw, 3)._replace(items=None, rows=blank))[0], unknown[0])


@pytest.mark.parametrize("item_numeric", [True, False])
def test_folding_raw_features_gives_the_rows_of_the_export(item_numeric):
    raw = raw_data(item_numeric=item_numeric)
    served = ServingRanker(artefact(raw, shaken(raw)))
    data, places = raw.data, np.array(CANDIDATES)
    features = ItemFeatures(
        ids=places + 1000,
        categorical={"genre": [raw.keys.item_categories["genre"][place] for place in places]},
        numeric={name: column[places] for name, column in data.item_numeric.items()},
        visual=data.visual[places],
        tokens=data.item_tokens["A"].take(places),
    )
    np.testing.assert_allclose(served.fold(features), served.rows(places + 1000), atol=1e-6)
    # an item that training never saw, with the same content, differs by its id alone
    new = served.fold(features._replace(ids=places + 9000))
    assert not np.allclose(new, served.fold(features))
    cold = raw.data.item_id[places] == 0
    np.testing.assert_allclose(new[cold], served.fold(features)[cold])


def test_new_items_bring_the_encoders_vectors(raw):
    rng = np.random.default_rng(1)
    encoded = rng.normal(size=(50, 9)).astype(np.float32)
    whitening = Whitening.fit(encoded, 6)
    served = ServingRanker(artefact(raw, shaken(raw), whitening=whitening))
    plain = ServingRanker(artefact(raw, shaken(raw)))
    ids = [1003, 7]
    expected = plain.fold(ItemFeatures(ids=ids, visual=whitening.apply(encoded[:2], np.array([True, False]))))
    vectors = np.stack([encoded[0], np.full(9, np.nan, np.float32)])
    np.testing.assert_allclose(served.fold(ItemFeatures(ids=ids, visual=vectors)), expected, rtol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_tokens_beyond_the_vocabulary_are_left_out(raw, pooling):
    served = ServingRanker(artefact(raw, shaken(raw, profile_pooling=pooling, token_pooling=pooling)))
    kept = ProfileList(np.array([3, 5], np.int32), np.array([0.5, 0.5], np.float32), 1.0)
    more = ProfileList(np.array([3, 9000, 5], np.int32), np.array([0.5, 0.7, 0.5], np.float32), 1.0)
    asked = [request(raw, 3, profiles={"like": profile}) for profile in (kept, more)]
    np.testing.assert_array_equal(served.score(asked[0]), served.score(asked[1]))
    rows = [
        served.fold(ItemFeatures(ids=[1], tokens=Jagged.from_lists([ids]))) for ids in ([2, 4], [2, 9000, 4])
    ]
    np.testing.assert_allclose(rows[0], rows[1])


def test_many_threads_get_what_one_gets(raw, served):
    asked = [request(raw, row, CANDIDATES) for row in range(40)]
    expected = [served.score(one) for one in asked]
    with ThreadPoolExecutor(4) as pool:
        for one, scores in zip(expected * 5, pool.map(served.score, asked * 5), strict=True):
            np.testing.assert_array_equal(scores, one)


NONE = np.empty(0, np.int32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"items": None}, "candidates == neither, must be one of items and rows"),
        ({"rows": np.zeros((1, 3), np.float32)}, "candidates == both"),
        (
            {"items": None, "rows": np.zeros((1, 3), np.float32)},
            r"rows == float32 \[1, 3\], must be float32 \[C, ",
        ),
        ({"items": ["1003"]}, "item == 1003, must be an integer, as in training"),
        ({"items": [[1003]]}, r"item == \[1003\], must be an integer"),
        ({"user": 7}, "user == 7, must be a string, as in training"),
        ({"context": {"tap": "a"}}, r"context column == tap, must be tab \(did you mean that\?\)"),
        ({"context": {"hour": float("inf")}}, "context hour == inf, must be finite, or missing"),
        ({"context": {"hour": "noon"}}, "context hour == noon, must be a number"),
        ({"profiles": {"lke": None}}, r"event type == lke, must be like \(did you mean that\?\)"),
        (
            {"profiles": {"like": ProfileList(NONE, NONE, -1.0)}},
            "mass of profile like == -1.0, must be finite and >= 0",
        ),
        ({"profiles": {"like": ProfileList(NONE, np.ones(2), 1.0)}}, "weights of profile like"),
        (
            {"profiles": {"like": ProfileList(np.zeros(1, np.int32), np.array([np.nan]), 1.0)}},
            "weights of profile like == NaN or infinite, must be finite",
        ),
    ],
)
def test_a_bad_request_is_refused(raw, served, changes, said):
    with pytest.raises(CaptionaryError, match=said):
        served.score(request(raw, 3)._replace(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categorical": {"genres": ["jazz"]}}, r"categorical column of items == genres, must be genre"),
        ({"categorical": {"genre": ["jazz", "rock"]}}, "length of item column genre == 2, must be 1"),
        ({"categorical": {"genre": [3]}}, "item column genre == 3, must be a string"),
        ({"visual": np.zeros((1, 4), np.float32)}, r"shape of visual == \(1, 4\), must be \(1, 6\)"),
        ({"visual": np.full((1, 6), np.inf, np.float32)}, "visual == not finite"),
        ({"tokens": Jagged.from_lists([[1], [2]])}, "lists of tokens == 2, must be 1"),
        ({"numeric": {"age": np.ones(1)}}, "numeric column of items == age"),
    ],
)
def test_bad_items_are_refused(served, changes, said):
    with pytest.raises(CaptionaryError, match=said):
        served.fold(ItemFeatures(ids=[1003], **changes))
