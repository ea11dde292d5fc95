"""dataset.yaml: written and read back unchanged; every mistake found at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from captionary.spec import Columns, DatasetSpec, Split, Task, read_spec, write_spec

MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "tasks": [{"name": "like"}],
    "splits": {"warm": {"column": "split"}},
    "default_split": "warm",
}


def errors(root: Path, **changes: Any) -> list[str]:
    """What is found wrong in the minimal dataset.yaml with some keys changed, or dropped where None."""
    data = {key: value for key, value in {**MINIMAL, **changes}.items() if value is not None}
    (root / "dataset.yaml").write_text(yaml.safe_dump(data))
    return read_spec(root)[1]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    spec = DatasetSpec(
        name="tiny",
        tasks=(
            Task(name="like"),
            Task(name="love", column="rating", at=5.0),
            Task(name="seconds", kind="weighted_logistic", weight=0.1),
        ),
        splits={"warm": Split(column="a"), "cold": Split(column="b", kind="items")},
        default_split="cold",
        event_types=("like",),
        context=Columns(categorical=("hour",), numeric=("age",)),
        text=("title",),
        clock="rank",
        time_zone="Asia/Shanghai",
        license="CC0 – no rights",
    )
    write_spec(spec, tmp_path)
    assert read_spec(tmp_path) == (spec, [])


def test_a_minimal_file_gets_the_defaults(tmp_path: Path) -> None:
    assert errors(tmp_path) == []
    spec = read_spec(tmp_path)[0]
    assert (spec.tasks[0].column, spec.tasks[0].at) == ("like", None)
    assert (spec.clock, spec.time_zone, spec.event_types) == ("time", "UTC", ())


def test_an_absent_or_broken_file_is_one_violation(tmp_path: Path) -> None:
    assert read_spec(tmp_path)[1] == [
        f"dataset.yaml == (absent), must be in the dataset directory; {tmp_path}",
    ]
    (tmp_path / "dataset.yaml").write_text("a: [\n")
    assert [line.split("; ")[0] for line in read_spec(tmp_path)[1]] == [
        f"config == {tmp_path / 'dataset.yaml'}, must be valid YAML",
    ]


def test_all_mistakes_are_found_at_once_and_the_rest_is_read(tmp_path: Path) -> None:
    found = errors(
        tmp_path,
        tsks=[],
        name=None,
        tasks=[{"name": "like", "at": "high"}, {"nmae": "love"}],
        clock="sun",
        event_types=["like"],
    )
    assert found == [
        "clock == sun, must be one of none, rank, time; dataset.yaml: clock",
        "at == high, must be of type float; dataset.yaml: tasks[0]: at",
        "key == nmae, must be name (did you mean that?) or one of at, column, kind, name, weight; "
        "dataset.yaml: tasks[1]",
        "name == (absent), must be given; dataset.yaml: tasks[1]",
        "key == tsks, must be tasks (did you mean that?) or one of clock, context, default_split, "
        "event_types, item_features, license, name, source, splits, tasks, text, time_zone; dataset.yaml",
        "name == (absent), must be given; dataset.yaml",
    ]
    assert read_spec(tmp_path)[0].event_types == ("like",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "tasks == (empty), must be at least one; dataset.yaml"),
        ({"splits": {}, "default_split": None}, "splits == (empty), must be at least one; dataset.yaml"),
        ({"tasks": [{"name": "like"}] * 2}, "name == like, must be given once; dataset.yaml: tasks"),
        ({"event_types": ["a", "a"]}, "name == a, must be given once; dataset.yaml: event_types"),
        (
            {"event_types": ["../a"]},
            "name == '../a', must be 1 to 64 letters, digits, spaces, _ . or -, led by a letter, a digit "
            "or _; dataset.yaml: event_types",
        ),
        (
            {"default_split": "wram"},
            "default_split == wram, must be warm (did you mean that?) or one of warm; dataset.yaml",
        ),
        (
            {"tasks": [{"name": "like", "at": float("nan")}]},
            "at == nan, must be a finite number; dataset.yaml: tasks: like",
        ),
        (
            {"tasks": [{"name": "time", "at": 30, "kind": "huber_log"}]},
            "at == 30.0, must be absent where kind is huber_log; dataset.yaml: tasks: time",
        ),
        (
            {"tasks": [{"name": "time", "kind": "huber"}]},
            "kind == huber, must be huber_log (did you mean that?) or one of binary, huber_log, "
            "weighted_logistic; dataset.yaml: tasks[0]: kind",
        ),
        (
            {"tasks": [{"name": "like"}, {"name": "time", "weight": -1}]},
            "weight == -1.0, must be a finite number >= 0; dataset.yaml: tasks: time",
        ),
        (
            {"tasks": [{"name": "like", "weight": 0}]},
            "weight == 0, must be > 0 for one task at least; dataset.yaml: tasks",
        ),
        (
            {"time_zone": "Middle/Earth"},
            "time_zone == 'Middle/Earth', must be an IANA time zone such as UTC or Europe/Paris; "
            "dataset.yaml",
        ),
        (
            {"context": {"categorical": ["like"]}},
            "column == like, must be no key, media, timestamp, task or split column; dataset.yaml: context",
        ),
        (
            {"context": {"numeric": ["split"]}},
            "column == split, must be no key, media, timestamp, task or split column; dataset.yaml: context",
        ),
        (
            {"item_features": {"categorical": ["a"], "numeric": ["a"]}},
            "name == a, must be given once; dataset.yaml: item_features",
        ),
    ],
)
def test_rules_that_types_cannot_say(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    found = errors(tmp_path, **changes)
    assert message in found
    assert len(found) == (2 if "default_split" in changes and changes["default_split"] is None else 1)
