"""docs/experiments.md: figures from the result file, examples that load, and every setting named."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from captionary.config import from_mapping
from captionary.online.experiments.settings import Experiment, Experiments, Layer, Metric, Monitoring

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


def test_figures_come_from_the_result_file() -> None:
    pytest.importorskip("tea_tasting", reason="the benchmark analyses with tea-tasting")
    spec = importlib.util.spec_from_file_location(
        "closed_loop_benchmark", ROOT / "benchmarks" / "closed_loop.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    figures = json.loads((ROOT / "benchmarks" / "results" / "closed_loop.json").read_text())
    assert tool.with_table(PAGE, figures) == PAGE, "run python benchmarks/closed_loop.py --page"
    trained = json.loads((ROOT / "benchmarks" / "results" / "closed_loop_trained.json").read_text())
    assert tool.with_trained(PAGE, trained) == PAGE, "run python benchmarks/closed_loop.py --page"


def test_the_example_is_a_valid_file() -> None:
    text = re.search(r"```yaml\n(salt:.*?)```", PAGE, re.S)[1]
    found = from_mapping(Experiments, yaml.safe_load(text), where="docs/experiments.md")
    assert found.names == ("captions", "layout")


@pytest.mark.parametrize("cls", [Experiments, Layer, Experiment, Metric, Monitoring])
def test_every_setting_is_named(cls: type) -> None:
    for field in dataclasses.fields(cls):
        assert re.search(rf"\b{field.name}\b", PAGE), f"{cls.__name__}.{field.name}"
