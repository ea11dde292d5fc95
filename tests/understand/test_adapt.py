"""Adapting on a few scenes: what is learnt, from whom, and what the card says."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.understand.tiny_models import save_tiny

from captionary.errors import CaptionaryError
from captionary.understand.adapt import (
    AdaptConfig,
    Catalogue,
    _lines,
    adapt,
    adapt_large,
    catalogue_of,
    readable,
)
from captionary.understand.adapt_lora import LoraSettings
from captionary.understand.builtin import CHECKPOINT, BuiltinCaptioner
from captionary.understand.hf import HfCaptioner
from captionary.understand.train import LEAD

COLOURS = {"drama": (200, 30, 30), "comedy": (30, 60, 200)}


def pictures(folder: Path, n: int) -> Catalogue:
    """Plain red dramas and plain blue comedies."""
    folder.mkdir()
    found = Catalogue([], [], [], [])
    for i in range(n):
        genre = ["drama", "comedy"][i % 2]
        noise = np.random.default_rng(i).integers(0, 30, (32, 32, 3))
        path = folder / f"{i}.png"
        Image.fromarray((np.array(COLOURS[genre]) + noise).astype(np.uint8)).save(path)
        found.item_ids.append(i)
        found.paths.append(path)
        found.words.append([genre])
        found.running.append("a long walk home")
    return found


def test_an_adapted_captioner_says_the_catalogues_words_of_new_items(tmp_path: Path) -> None:
    training, held_out = pictures(tmp_path / "training", 8), pictures(tmp_path / "new", 4)
    config = AdaptConfig(minutes=5, passes=40, pictures=8, learning_rate=1e-3, words=2, own=False, views=1)
    result = adapt(training, held_out, tmp_path / "out", config, name="walks", columns=["genres", "plot"])
    assert result.before is not None
    assert result.after is not None
    assert result.before.micro < 0.6  # two words, half of them true, none said
    assert result.after.micro == 1.0
    assert result.drawn is not None
    assert result.drawn.micro > 0.9
    folder = tmp_path / "out" / "checkpoint"
    adapted = BuiltinCaptioner(threads=1, checkpoint=folder)
    assert adapted.fingerprint != BuiltinCaptioner(threads=1).fingerprint
    said = adapted.caption([Image.open(path) for path in held_out.paths])
    assert [caption.text for caption in said] == [
        "drama a long",
        "comedy a long",
    ] * 2  # two words of the plot
    facts = json.loads((folder / "config.json").read_text())["facts"]
    assert facts["items"] == {"training": 8, "held_out": 4}
    assert facts["columns"] == ["genres", "plot"]
    assert facts["training"]["steps"] == 40  # of 8 pictures: 40 passes
    assert "| **micro** | 4 |" in (folder / "MODEL_CARD.md").read_text()


def test_a_large_captioner_is_adapted_by_lora(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra `adapt` is not installed")
    source = save_tiny("smolvlm", tmp_path / "model")
    training, held_out = pictures(tmp_path / "training", 4), pictures(tmp_path / "new", 2)
    words = {"drama": "red", "comedy": "blue"}  # what the tiny tokenizer knows
    training, held_out = (
        each._replace(
            words=[[words[word] for word in own] for own in each.words], running=[""] * len(each.paths)
        )
        for each in (training, held_out)
    )
    result = adapt_large(
        training, held_out, tmp_path / "out", LoraSettings(steps=60, batch_size=4, learning_rate=2e-2, dropout=0.0),
        captioner=HfCaptioner(str(source), threads=1, max_new_tokens=4), source=source, own=False, columns=["genres"],
    )  # fmt: skip
    assert result.after is not None
    assert result.after.words == ["blue", "red"]
    said = HfCaptioner(str(tmp_path / "out" / "checkpoint"), threads=1, max_new_tokens=4)
    first = [caption.text.split()[0] for caption in said.caption([Image.open(p) for p in training.paths])]
    assert set(first) <= {"red", "blue"}
    assert "| **micro** | 2 |" in (tmp_path / "out" / "checkpoint" / "MODEL_CARD.md").read_text()


def test_words_come_in_several_orders_and_text_and_own_caption_follow() -> None:
    lines = _lines(["a", "b", "c"], "plot", "own", np.random.default_rng(0))
    assert len(lines) > 2
    assert all(
        sorted(line.split()[:3]) == ["a", "b", "c"] and line.endswith(f" plot{LEAD}own") for line in lines
    )


def test_a_catalogue_is_read_from_a_table(tmp_path: Path) -> None:
    items = pa.table(
        {
            "item_id": [1, 2, 3],
            "media": [["1.jpg", "other.jpg"], [], ["3.jpg"]],
            "genres": [["Sci-Fi", "Comedy", "Comedy"], ["Drama"], None],
            "plot": ["Far away, once.", "x", None],
            "year": [1, 2, 3],
        }
    )
    found = catalogue_of(items, ["genres", "plot"], lambda uri: tmp_path / uri)
    assert found == Catalogue([1], [tmp_path / "1.jpg"], [["sci-fi", "comedy"]], ["far away once"])
    with pytest.raises(CaptionaryError, match="--text == plots, must be plot"):
        catalogue_of(items, ["plots"], Path)
    with pytest.raises(CaptionaryError, match="--text == year, must be a column of strings"):
        catalogue_of(items, ["year"], Path)
    assert readable(found).paths == []  # no such file


def test_too_few_items_and_foreign_scripts_are_refused(tmp_path: Path) -> None:
    few = pictures(tmp_path / "few", 2)
    with pytest.raises(CaptionaryError, match="training items with text and a picture == 2, must be >= 8"):
        adapt(few, few, tmp_path / "out", AdaptConfig(pictures=8))
    with pytest.raises(CaptionaryError, match="passes == 0, must be > 0"):
        AdaptConfig(passes=0)
    foreign = few._replace(words=[["драма"], ["комедия"]])
    with pytest.raises(CaptionaryError, match="unknown tokens"):
        adapt(foreign, few, tmp_path / "out", AdaptConfig(pictures=2, own=False))
    assert (CHECKPOINT / "model.safetensors").exists()
