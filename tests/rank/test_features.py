import dataclasses

import pytest

from captionary.errors import CaptionaryError
from captionary.rank.features import FeatureSet, Schema

ALL = FeatureSet(visual=True, tokens="A", profiles="A")


def test_fields_follow_from_the_features(data):
    ids = ("dense", "user", "item", "context.tab", "item.genre")
    assert Schema.of(data, FeatureSet()).fields == ids
    assert Schema.of(data, ALL).fields == (*ids, "visual", "tokens", "profile.like", "profile.share")
    assert Schema.of(data, ALL).vocabulary == 20
    assert Schema.of(data, FeatureSet(visual=True)).vocabulary == 0


def test_tokens_and_profiles_share_one_table():
    with pytest.raises(CaptionaryError, match="share one token table"):
        FeatureSet(tokens="A", profiles="B")


@pytest.mark.parametrize("features", [{"tokens": "B"}, {"profiles": "B"}])
def test_a_missing_feature_is_named(data, features):
    with pytest.raises(CaptionaryError, match="== B, must be one of A"):
        FeatureSet(**features).check(data)


def test_visual_needs_vectors(data):
    with pytest.raises(CaptionaryError, match="no visual vectors"):
        FeatureSet(visual=True).check(dataclasses.replace(data, visual=None))


def test_data_that_outgrows_the_tables_is_refused(data):
    schema = Schema.of(data, ALL)
    schema.check_accepts(dataclasses.replace(schema, users=schema.users - 1))
    with pytest.raises(CaptionaryError, match="users == 152, must be <= 151"):
        schema.check_accepts(dataclasses.replace(schema, users=schema.users + 1))
    with pytest.raises(CaptionaryError, match=r"^tokens == "):
        schema.check_accepts(dataclasses.replace(schema, tokens=False))


def test_tasks_are_binary_and_weigh_1_unless_said(data):
    schema = Schema.of(data, FeatureSet())
    assert (schema.task_kinds, schema.task_weights) == (("binary", "binary"), (1.0, 1.0))
    kinds = ("binary", "huber_log")
    other = Schema.of(dataclasses.replace(data, task_kinds=kinds, task_weights=(1.0, 0.5)), FeatureSet())
    assert (other.task_kinds, other.task_weights) == (kinds, (1.0, 0.5))
    with pytest.raises(CaptionaryError, match=r"^task_kinds == .*what the ranker was trained on"):
        schema.check_accepts(other)
    with pytest.raises(CaptionaryError, match=r"task_weights == .*one for each of 2 tasks"):
        dataclasses.replace(schema, task_weights=(1.0,))
