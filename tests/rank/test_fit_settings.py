import dataclasses
from pathlib import Path

import pytest

from captionary.errors import CaptionaryError
from captionary.rank.fit_settings import FitConfig, OptimizerConfig, StreamConfig, load_fit
from captionary.tuning import SPACE

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_a_file_says_what_differs_and_trains_once(tmp_path):
    path = tmp_path / "ranker.yaml"
    path.write_text("optimizer: {table: rowwise_adagrad}\n")
    assert load_fit(path) == FitConfig(optimizer=OptimizerConfig(table="rowwise_adagrad"))
    assert load_fit(path).ranker.epochs == 1
    path.write_text("ranker: {embedding_dim: 4}\n")
    assert (load_fit(path).ranker.embedding_dim, load_fit(path).ranker.epochs) == (4, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimiser: {}", "key == optimiser, must be optimizer"),
        ("ranker: 3", "ranker == 3, must be a mapping"),
        ("optimizer: {table: adamw}", "table == adamw, must be one of"),
        ("optimizer: {table_decay: -1}", "table_decay == -1.0, must be >= 0"),
        ("stream: {keep: 0}", "keep == 0, must be >= 1"),
        ("stream: {diverged: 1.0}", "diverged == 1.0, must be > 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    path = tmp_path / "ranker.yaml"
    path.write_text(text)
    with pytest.raises(CaptionaryError, match=words):
        load_fit(path)


@pytest.mark.parametrize(("group", "config"), [("optimizer", OptimizerConfig()), ("stream", StreamConfig())])
def test_the_page_has_every_key_with_its_default(group, config):
    for field in dataclasses.fields(config):
        default = getattr(config, field.name)
        shown = f"`{default}`" if isinstance(default, str) else str(default).lower()
        assert f"| `{group}.{field.name}` | {shown} |" in PAGE, field.name


def test_the_page_has_all_that_is_searched():
    searched = PAGE[PAGE.index("| searched |") :]
    assert all(f"`{name}`" in searched for name in SPACE)
