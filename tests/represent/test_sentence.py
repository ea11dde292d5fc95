"""Sentence embeddings by tiny random models on disk: no network, each text once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from captionary.errors import CaptionaryError
from captionary.represent.sentence import SentenceModel, embed_texts

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "dog",
    "cat",
    "on",
    "the",
    "sofa",
    "in",
    "snow",
    "two",
    "red",
]
TEXTS = ["a dog on the sofa", "cat", "two red cat in the snow on a sofa", "a dog on the sofa", "snow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer, as `save_pretrained` writes it."""
    out = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(out)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
        BertModel(config).save_pretrained(out)
    return out


def test_a_vector_is_the_mean_over_the_texts_tokens_at_length_one(folder: Path) -> None:
    vectors = SentenceModel(folder, batch_size=3, device="cpu").embed(TEXTS)
    model, tokenizer = (
        BertModel.from_pretrained(folder).eval(),
        PreTrainedTokenizerFast.from_pretrained(folder),
    )
    for text, vector in zip(TEXTS, vectors, strict=True):  # alone, so that nothing is padded
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_texts_are_cut_where_the_model_ends(folder: Path) -> None:
    """The model has 16 positions, of which [CLS] and [SEP] take two."""
    model = SentenceModel(folder, device="cpu")
    vectors = model.embed(["dog " * 14, "dog " * 40])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert SentenceModel(folder, max_tokens=8).fingerprint != model.fingerprint


def test_each_text_goes_through_the_model_once(folder: Path, tmp_path: Path) -> None:
    model = SentenceModel(folder, device="cpu")
    first = embed_texts([*TEXTS, None, "  "], model, cache=tmp_path)
    assert first.new == 4
    assert first.present.tolist() == [True] * 5 + [False] * 2
    assert np.linalg.norm(first.vectors, axis=1) == pytest.approx([1.0] * 5 + [0.0] * 2)
    assert np.array_equal(first.vectors[0], first.vectors[3])
    again = SentenceModel(folder, device="cpu")
    second = embed_texts(["snow", "a dog", None], again, cache=tmp_path)
    assert second.new == 1
    assert np.array_equal(second.vectors[0], first.vectors[4])
    unloaded = SentenceModel(folder, device="cpu")
    third = embed_texts(["a dog", *TEXTS], unloaded, cache=tmp_path)
    assert third.new == 0
    assert unloaded._model is None  # what is all known needs no model
    assert np.array_equal(third.vectors[1:], first.vectors[:5])
    path = tmp_path / f"{model.fingerprint}.parquet"
    assert pq.read_metadata(path).num_rows == 5
    path.write_bytes(b"nothing")
    with pytest.raises(CaptionaryError, match="delete it"):
        embed_texts(TEXTS, model, cache=tmp_path)


def test_no_texts_at_all(folder: Path) -> None:
    nothing = embed_texts([None, ""], SentenceModel(folder, device="cpu"))
    assert nothing.vectors.shape == (2, 16)
    assert not nothing.vectors.any()
    assert not nothing.present.any()


def test_the_fingerprint_is_that_of_the_files(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "README.md").write_text("Of no matter.")
    assert SentenceModel(tmp_path).fingerprint == SentenceModel(folder).fingerprint
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert SentenceModel(tmp_path).fingerprint != SentenceModel(folder).fingerprint


def test_what_is_no_model_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match=r"modules\.json or config\.json"):
        SentenceModel(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CaptionaryError, match="a model that transformers can read"):
        SentenceModel(tmp_path).embed(["a dog"])
    with pytest.raises(CaptionaryError, match="batch_size == 0"):
        SentenceModel(folder, batch_size=0)


def test_a_folder_of_sentence_transformers(folder: Path, tmp_path: Path) -> None:
    """Its own pooling is used: of the first token here, in the place of the mean."""
    pytest.importorskip(
        "sentence_transformers", reason="the library reads its own folders; it comes with the extra sentences"
    )
    packaged = tmp_path / "packaged"
    shutil.copytree(folder, packaged)
    # The layout of published models, all-MiniLM-L6-v2 for one.
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    named = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(parts)
    ]
    (packaged / "modules.json").write_text(json.dumps(named))
    (packaged / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    (packaged / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    }
    (packaged / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    made = SentenceModel(packaged, device="cpu", max_tokens=8)
    assert made.packaged
    vectors = made.embed(TEXTS)
    model, tokenizer = (
        BertModel.from_pretrained(folder).eval(),
        PreTrainedTokenizerFast.from_pretrained(folder),
    )
    for text, vector in zip(TEXTS, vectors, strict=True):
        asked = tokenizer(text, return_tensors="pt", truncation=True, max_length=8)
        with torch.inference_mode():
            state = model(**asked).last_hidden_state[0, 0]
        np.testing.assert_allclose(vector, (state / state.norm()).numpy(), atol=1e-5)
    assert made.embed([]).shape == (0, 16)
