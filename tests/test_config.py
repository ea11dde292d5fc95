"""Typed configs: what fits is converted, all else is refused with its place and the nearest known name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from captionary.config import from_mapping, load_yaml, to_mapping
from captionary.errors import CaptionaryError, bad_value


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3

    def __post_init__(self) -> None:
        if self.size < 1:
            raise bad_value("size", self.size, ">= 1")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.5
    on: bool = False
    mode: Literal["fast", "exact"] = "fast"
    path: Path | None = None
    limit: int | None = None
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(CaptionaryError) as caught:
        from_mapping(Outer, data, where="x.yaml")
    return str(caught.value)


def test_values_get_the_types_of_the_fields() -> None:
    data = {
        "name": "a",
        "rate": 1,
        "path": "b/c",
        "limit": None,
        "inner": {"size": 7},
        "many": [{"size": 1}, {}],
        "by_name": {"k": {"size": 2}},
        "free": {"x": [1, "y"]},
    }
    made = from_mapping(Outer, data, where="x.yaml")
    assert made == Outer(
        name="a",
        rate=1.0,
        path=Path("b/c"),
        inner=Inner(size=7),
        many=(Inner(size=1), Inner()),
        by_name={"k": Inner(size=2)},
        free={"x": [1, "y"]},
    )
    assert isinstance(made.rate, float)
    assert from_mapping(Outer, {"name": "a"}, where="x.yaml") == Outer(name="a")


def test_to_mapping_and_back_changes_nothing() -> None:
    made = Outer(name="a", many=(Inner(size=2),), by_name={"k": Inner()})
    assert from_mapping(Outer, to_mapping(made), where="x.yaml") == made


def test_an_unknown_key_names_the_nearest_one() -> None:
    assert refusal({"name": "a", "rte": 1}).startswith(
        "key == rte, must be rate (did you mean that?) or one of"
    )
    assert refusal({"name": "a", "many": [{}, {"siez": 1}]}) == (
        "key == siez, must be size (did you mean that?) or one of size; x.yaml: many[1]"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", 3, "name == 3, must be of type str; x.yaml: name"),
        ("rate", "high", "rate == high, must be of type float; x.yaml: rate"),
        ("rate", True, "rate == True, must be of type float; x.yaml: rate"),
        ("on", 1, "on == 1, must be of type bool; x.yaml: on"),
        ("limit", 1.5, "limit == 1.5, must be of type int; x.yaml: limit"),
        ("limit", True, "limit == True, must be of type int; x.yaml: limit"),
        (
            "mode",
            "fats",
            "mode == fats, must be fast (did you mean that?) or one of exact, fast; x.yaml: mode",
        ),
        ("inner", 3, "inner == 3, must be a mapping; x.yaml: inner"),
        ("inner", {"size": 0}, "size == 0, must be >= 1; x.yaml: inner"),
        ("many", {"size": 0}, "many == {'size': 0}, must be a list; x.yaml: many"),
        ("by_name", [1], "by_name == [1], must be a mapping; x.yaml: by_name"),
        ("by_name", {"k": {"size": "b"}}, "size == b, must be of type int; x.yaml: by_name: k: size"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(key: str, value: object, message: str) -> None:
    assert refusal({"name": "a", key: value}) == message


def test_a_required_key_must_be_given() -> None:
    assert refusal({}) == "name == (absent), must be given; x.yaml"


def test_load_yaml_refuses_what_is_not_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with pytest.raises(CaptionaryError, match=r"must be a readable file; No such file"):
        load_yaml(path)
    path.write_text("a: [1, 2\n")
    with pytest.raises(CaptionaryError, match=r"must be valid YAML; .*expected ',' or"):
        load_yaml(path)
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(CaptionaryError, match="must be valid YAML"):
        load_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(CaptionaryError, match="config == list, must be a mapping"):
        load_yaml(path)
    path.write_text("a: {b: 1}\n")
    assert load_yaml(path) == {"a": {"b": 1}}
