"""Contributions of pairs, against the logit's mixed second derivative by the lengths of both bags."""

import numpy as np
import pytest
import torch
from tests.rank.served_rankers import artefact, raw_data, request, shaken

from captionary.errors import CaptionaryError
from captionary.rank.explaining import bag_parts
from captionary.rank.features import FeatureSet
from captionary.rank.served import ServingRanker
from captionary.represent.jagged import Jagged

ITEM = 4  # has three tokens
ROW = 5  # has five tokens in each profile


@pytest.fixture(scope="module")
def raw():
    return raw_data()


@pytest.mark.parametrize("pooling", ["mean", "sum"])
@pytest.mark.parametrize("table", ["plain", "hash"])
def test_the_parts_of_a_list_sum_to_its_bag(raw, pooling, table):
    model = shaken(raw, token_table=table, hash_components=8)
    served = ServingRanker(artefact(raw, model))
    lists = served._requests.lists([raw.profiles["like"][ROW], raw.profiles["share"][ROW]])
    parts = bag_parts(model, lists, pooling)
    with torch.no_grad():
        expected = model._bags(lists, pooling)
    found = torch.stack([part.sum(0) for part in parts.split(lists.offsets.diff().tolist())])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"interaction": "dcnv2"},
        {"towers": "ple"},
        {"profile_pooling": "attention"},
        {"token_table": "hash"},
    ],
    ids=str,
)
def test_contributions_sum_to_the_mixed_second_derivative_along_the_bags(raw, config):
    served = ServingRanker(artefact(raw, shaken(raw, **config)))
    asked = request(raw, ROW, [ITEM])
    found = served.explain(asked, task="seconds", top=1000)[0]
    assert (found.candidate, found.task) == (0, "seconds")
    assert found.score == served.score(asked)[0, 1]
    assert len(found.pairs) == (5 + 5) * 3
    sizes = [abs(pair.contribution) for pair in found.pairs]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(pair.share for pair in found.pairs) == pytest.approx(1)
    total = sum(pair.contribution for pair in found.pairs if pair.event == "like")
    assert total == pytest.approx(_mixed(served, asked, "profile.like", task=1), rel=1e-3, abs=1e-5)


def _mixed(served: ServingRanker, asked, profile: str, task: int) -> float:
    """u' H v by automatic differentiation of the scale of both bags."""
    rows = torch.from_numpy(served.rows(asked.items))
    state = served._state(asked)
    names = served._served.schema.fields
    fields = served._served.fields(rows, state).detach()

    def logit(scales: torch.Tensor) -> torch.Tensor:
        factor = torch.ones(1, len(names), 1)
        factor[0, names.index(profile), 0] = scales[0]
        factor[0, names.index("tokens"), 0] = scales[1]
        return served._served.from_fields(fields * factor)[0, task]

    return float(torch.autograd.functional.hessian(logit, torch.ones(2))[0, 1])


def test_nothing_meets_where_pairs_have_no_part(raw):
    served = ServingRanker(artefact(raw, shaken(raw, interaction="concat")))
    pairs = served.explain(request(raw, ROW, [ITEM]), top=3)[0].pairs
    assert [pair.contribution for pair in pairs] == [0, 0, 0]
    assert [pair.share for pair in pairs] == [0, 0, 0]


def test_a_ranker_without_profiles_or_an_item_without_tokens_has_no_pairs(raw):
    alone = FeatureSet(tokens="A")
    served = ServingRanker(artefact(raw, shaken(raw, alone), alone))
    assert served.explain(request(raw, ROW, [ITEM]))[0].pairs == ()
    served = ServingRanker(artefact(raw, shaken(raw)))
    assert served.explain(request(raw, ROW, [0]))[0].pairs == ()  # every third item has no tokens


def test_rows_are_explained_by_the_tokens_that_come_with_them(raw):
    served = ServingRanker(artefact(raw, shaken(raw)))
    asked = request(raw, ROW, [ITEM, 7])
    tokens = raw.data.item_tokens["A"].take(np.array([ITEM, 7]))
    of_store = asked._replace(items=None, rows=served.rows(asked.items))
    assert served.explain(of_store, tokens=tokens) == served.explain(asked)
    with pytest.raises(CaptionaryError, match="tokens == none, must be given with rows"):
        served.explain(of_store)
    with pytest.raises(CaptionaryError, match="lists of tokens == 1, must be 2, one a candidate"):
        served.explain(asked, tokens=Jagged.from_lists([[1]]))
    with pytest.raises(CaptionaryError, match="task == likes, must be like"):
        served.explain(asked, task="likes")
    with pytest.raises(CaptionaryError, match="top == 0, must be >= 1"):
        served.explain(asked, top=0)
