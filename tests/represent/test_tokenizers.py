from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.represent.llama import llama2

from captionary.config import from_mapping, to_mapping
from captionary.errors import CaptionaryError
from captionary.represent.tokenizers import (
    TOKENIZERS,
    Tokenizer,
    TokenizerConfig,
    load_tokenizer,
    make_tokenizer,
)

CORPUS = ["a dog on a sofa", "a dog on a bed", "a cat on a sofa", "a cat"] * 3
PROBE = [*CORPUS[:4], "a zebra, 犬!", "", "two dogs on sofas"]


@pytest.fixture(scope="session", params=sorted(TOKENIZERS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every kind of the registry; `hf` with a folder to load."""
    if request.param == "hf":
        return f"hf:{llama2(tmp_path_factory.mktemp('hf') / 'llama')}"
    return str(request.param)


def test_every_kind_fulfils_the_protocol(kind: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(TokenizerConfig(kind=kind))
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.vocabulary[0] == "[UNK]"
    assert tokenizer.encode(["", ""]).lengths.tolist() == [0, 0]
    assert tokenizer.fit(CORPUS) is tokenizer
    assert tokenizer.kind == kind
    assert tokenizer.name == ("hf:llama" if kind.startswith("hf") else kind)
    assert len(set(tokenizer.vocabulary)) == len(tokenizer.vocabulary) == len(tokenizer.idf())
    assert tokenizer.sizes == [len(tokenizer.vocabulary)]
    lists = tokenizer.encode(CORPUS)
    assert lists.rows == len(CORPUS)
    assert lists.values.dtype == np.int32
    assert 0 <= lists.values.min() <= lists.values.max() < len(tokenizer.vocabulary)
    assert "dog" in "".join(tokenizer.decode(lists.row(0))).replace("##", "")
    tokenizer.save(tmp_path / "t")
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["tokenizer.json"]
    loaded = load_tokenizer(tmp_path / "t")
    assert type(loaded) is type(tokenizer)
    assert loaded.encode(PROBE).values.tolist() == tokenizer.encode(PROBE).values.tolist()
    assert loaded.fingerprint() == tokenizer.fingerprint()


def test_fingerprint_follows_what_decides_the_ids(kind: str) -> None:
    fitted = make_tokenizer(TokenizerConfig(kind=kind)).fit(CORPUS)
    assert make_tokenizer(TokenizerConfig(kind=kind)).fit(CORPUS).fingerprint() == fitted.fingerprint()
    assert (
        make_tokenizer(TokenizerConfig(kind=kind, name="A")).fit(CORPUS).fingerprint() == fitted.fingerprint()
    )
    assert make_tokenizer(TokenizerConfig(kind=kind)).fit(CORPUS[:-1]).fingerprint() != fitted.fingerprint()
    assert (
        make_tokenizer(TokenizerConfig(kind=kind, oov="unk")).fit(CORPUS).fingerprint()
        != fitted.fingerprint()
    )


def test_document_frequencies_count_captions(kind: str) -> None:
    fitted = make_tokenizer(TokenizerConfig(kind=kind, max_df=1.0)).fit(CORPUS)
    lists = fitted.encode(CORPUS)
    for token in set(lists.values.tolist()) - {0}:
        held = sum(token in lists.row(row) for row in range(lists.rows))
        assert fitted.document_frequency[token] == held  # type: ignore[attr-defined]


def test_fitted_on_nothing_it_still_encodes(kind: str) -> None:
    assert make_tokenizer(TokenizerConfig(kind=kind)).fit([]).encode(["a dog", ""]).lengths[1] == 0
    assert make_tokenizer(TokenizerConfig(kind=kind)).fit(["", "!"]).encode([""]).lengths[0] == 0


def test_unknown_is_the_share_of_tokens_out_of_vocabulary() -> None:
    fitted = make_tokenizer(TokenizerConfig(max_df=1.0, phrases=False)).fit(CORPUS)
    assert fitted.unknown(["a dog and a zebra", "a cat", ""]) == 1 / 3
    assert np.isnan(fitted.unknown([""]))
    assert make_tokenizer(TokenizerConfig(kind="hash")).unknown(["a zebra"]) == 0


def test_decode_refuses_ids_that_no_token_has() -> None:
    tokenizer = make_tokenizer(TokenizerConfig()).fit(CORPUS)
    for wrong in (-1, len(tokenizer.vocabulary)):
        with pytest.raises(CaptionaryError, match=f"token id == {wrong}, must be in 0"):
            tokenizer.decode([0, wrong])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "concept"}, "tokenizer kind == concept, must be concepts"),
        ({"kind": "hf"}, "must be hf:ID-or-folder"),
        ({"kind": "bpe:x"}, "tokenizer kind == bpe:x, must be"),
        ({"ngrams": 0}, "ngrams == 0, must be >= 1"),
        ({"min_npmi": 2.0}, "min_npmi == 2.0, must be from -1 to 1"),
        ({"vocabulary_size": 1}, "vocabulary_size == 1, must be >= 2"),
        ({"min_df": 0}, "min_df == 0, must be >= 1"),
        ({"max_df": 0.0}, "max_df == 0.0, must be a share"),
        ({"max_df": 2.0}, "max_df == 2.0, must be a share"),
        ({"oov": "keep"}, "oov == keep, must be"),
        ({"size": 5}, "key == size, must be"),
    ],
)
def test_wrong_configs_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CaptionaryError, match=message):
        from_mapping(TokenizerConfig, settings, where="demo.yaml: tokenizers")


def test_config_survives_its_mapping() -> None:
    config = TokenizerConfig(kind="wordpiece", vocabulary_size=50, oov="unk")
    assert from_mapping(TokenizerConfig, to_mapping(config), where="here") == config


def _spoil(path: Path, **changes: object) -> None:
    payload = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(payload))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "must be a file of format captionary-tokenizer"),
        ({"version": 99}, "version == 99, must be 2"),
        ({"rules": 99}, "rules == 99, must be 1"),
        ({"vocabulary": ["dog"]}, "must be undamaged"),
        ({"sizes": [1]}, "must be undamaged"),
        ({"config": None}, "must be undamaged"),
        ({"config": {"kind": "nope"}}, "tokenizer kind == nope"),
    ],
)
def test_files_of_another_making_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    make_tokenizer(TokenizerConfig()).fit(CORPUS).save(tmp_path)
    _spoil(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(CaptionaryError, match=message):
        load_tokenizer(tmp_path)


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match=r"must be a file that exists.*fit the tokenizer again"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CaptionaryError, match="must be readable JSON"):
        load_tokenizer(tmp_path)


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    make_tokenizer(TokenizerConfig()).fit(CORPUS).save(tmp_path)
    other = make_tokenizer(TokenizerConfig(phrases=False)).fit(CORPUS)
    other.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint() == other.fingerprint()
