"""evidence.json: as its schema and its page in docs say, and read back as it was written."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence import result
from captionary.evidence.result import Evidence

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads(Path(result.__file__).with_name("schema.json").read_text(encoding="utf-8"))
CLASSES = {
    "Evidence": result.Evidence,
    "RunInfo": result.RunInfo,
    "TaskInfo": result.TaskInfo,
    "ArmResult": result.ArmResult,
    "OracleResult": result.OracleResult,
    "Contrast": result.Contrast,
    "RivalContrast": result.RivalContrast,
    "Ablation": result.Ablation,
    "CaptionCounts": result.CaptionCounts,
}


def schema_of(name: str) -> dict[str, Any]:
    return SCHEMA if name == "Evidence" else SCHEMA["$defs"][name]


def check(text: str) -> None:
    jsonschema.validate(json.loads(text), SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_produced_file_is_valid_and_reads_back_the_same(evidence: Evidence) -> None:
    text = evidence.to_json()
    check(text)
    assert Evidence.from_json(text) == evidence


def test_a_file_with_unknown_figures_is_valid_too(concluded: Callable, simulation: Callable) -> None:
    rows = simulation(rows=600, users=60, seeds=1)
    rows.labels[:, 0] = 0
    made = concluded(rows)
    made = dataclasses.replace(made, oracle=None, captions=None)
    assert made.arms[0].auc["comment"] is None
    check(made.to_json())
    assert Evidence.from_json(made.to_json()) == made


def test_a_figure_that_is_not_a_number_is_never_written(evidence: Evidence) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(
            evidence, tasks=(result.TaskInfo(name="t", positives=1, base_rate=float("nan"), subsets=1),)
        ).to_json()


def test_a_config_may_hold_paths(concluded: Callable, simulation: Callable) -> None:
    made = concluded(simulation(rows=600, users=60), config={"data": Path("world")})
    assert json.loads(made.to_json())["run"]["config"] == {"data": "world"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data["arms"][0].pop("auc"),
        lambda data: data["arms"][0].update(extra=1),
        lambda data: data["arms"][2].update(p_value=1.5),
        lambda data: data["arms"][2].update(interval=[0.1]),
        lambda data: data["arms"][9].update(placebo="reversed"),
        lambda data: data.update(outcome="great"),
        lambda data: data["run"].update(eval_rows=-1),
    ],
)
def test_the_schema_refuses_what_is_wrong(evidence: Evidence, spoil: Callable[[Any], Any]) -> None:
    data = json.loads(evidence.to_json())
    spoil(data)
    with pytest.raises(jsonschema.ValidationError):
        check(json.dumps(data))


@pytest.mark.parametrize("name", CLASSES)
def test_the_schema_describes_every_field(name: str) -> None:
    fields = [field.name for field in dataclasses.fields(CLASSES[name])]
    schema = schema_of(name)
    assert list(schema["properties"]) == fields
    assert schema["required"] == fields
    assert all(described["description"] for described in schema["properties"].values())


def test_every_key_is_in_the_docs(evidence: Evidence) -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    declared = {key for name in CLASSES for key in schema_of(name)["properties"]}
    assert declared - documented == set()
    free = {
        *evidence.run.config,
        *evidence.run.versions,
        *evidence.run.fingerprints,
        *evidence.run.tokenizers,
    }
    free |= {task.name for task in evidence.tasks} | set(
        evidence.captions.reasons if evidence.captions else ()
    )
    free |= set(evidence.arms[2].variance)
    written = set(keys(json.loads(evidence.to_json())))
    assert written - documented - free - {"seed", "semantic_strength", "seeds"} == set()


def keys(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from keys(value)
    elif isinstance(data, list):
        for value in data:
            yield from keys(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "evidence == line 1: .*, must be JSON; evidence.json"),
        ("[]", "evidence == list, must be a mapping"),
        ('{"schema_version": 0}', "schema_version == 0, must be 1; evidence.json; run `captionary evidence`"),
        ('{"schema_version": 1, "arm": []}', r"key == arm, must be arms \(did you mean that\?\)"),
    ],
)
def test_other_files_are_refused(text: str, words: str) -> None:
    with pytest.raises(CaptionaryError, match=words):
        Evidence.from_json(text)


def test_an_unknown_arm_is_an_error_that_lists_the_known(evidence: Evidence) -> None:
    with pytest.raises(CaptionaryError, match="arm == joint, must be one of ids, "):
        evidence.arm("joint")
