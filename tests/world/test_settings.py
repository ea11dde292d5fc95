import pytest

from captionary.config import from_mapping
from captionary.errors import CaptionaryError
from captionary.world.settings import WorldConfig


def test_the_last_eighth_of_the_days_is_for_evaluation() -> None:
    assert WorldConfig(days=32).eval_days == 32 // 8
    assert WorldConfig(days=8).eval_days == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1), ("seed", 2**32), ("items", 19), ("broken_media", 61), ("users", 1), ("impressions", 99),
        ("days", 7), ("compositions", 0), ("stock", 0.0), ("semantic_strength", -0.1),
        ("semantic_strength", float("nan")), ("taste_memory", 1.1), ("policy_affinity", float("inf")),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(CaptionaryError, match=rf"^{field} == .*, must be "):
        WorldConfig.tiny(**{field: value})


def test_a_config_file_may_say_a_whole_number_for_a_dial_but_no_unknown_dial() -> None:
    config = from_mapping(WorldConfig, {"semantic_strength": 0}, where="demo.yaml: world")
    assert config == WorldConfig(semantic_strength=0.0)
    with pytest.raises(CaptionaryError, match="semantic_strength"):
        from_mapping(WorldConfig, {"strength": 1.0}, where="demo.yaml: world")
