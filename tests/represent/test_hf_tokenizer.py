from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.represent.llama import CORPUS, bert, gpt2, llama2, llama2_legacy, unsplit

from captionary.errors import CaptionaryError
from captionary.represent.hf_tokenizer import HfTokenizer
from captionary.represent.tokenizers import TokenizerConfig, load_tokenizer

MAKERS = (llama2, llama2_legacy, gpt2, bert, unsplit)


def fitted(folder: Path, **settings: object) -> HfTokenizer:
    config = TokenizerConfig(kind=f"hf:{folder}", **settings)  # type: ignore[arg-type]
    return HfTokenizer(config).fit(CORPUS)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    maker: Callable[[Path], Path] = request.param
    return maker(tmp_path_factory.mktemp("hf") / maker.__name__)


_WORDS = st.sampled_from(
    ["dog", "zebras", "a", "on", "Dog", "犬", "!?", "it's", "3.5", "ab-cd", "sofá", "🐶", "<s>"]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caption=st.one_of(st.lists(_WORDS, max_size=8).map(" ".join), st.text(max_size=30)))
def test_encode_is_what_the_library_s_own_call_gives(folder: Path, caption: str) -> None:
    tokenizer = _whole(folder)
    assert tokenizer._library is not None
    own = tokenizer._library.encode(" ".join(caption.split()), add_special_tokens=False).ids
    unk = tokenizer._unk()
    expected = [0 if token == unk else token + 1 for token in own]
    assert tokenizer.encode([caption]).values.tolist() == expected


_CACHE: dict[Path, HfTokenizer] = {}


def _whole(folder: Path) -> HfTokenizer:
    if folder not in _CACHE:
        _CACHE[folder] = fitted(folder, compact=False)
    return _CACHE[folder]


def test_words_are_read_alone_where_that_is_exact(folder: Path) -> None:
    assert fitted(folder)._by_word == (folder.name != "unsplit")


def test_the_compact_numbering_is_by_frequency(tmp_path: Path) -> None:
    tokenizer = fitted(llama2(tmp_path / "llama"))
    assert tokenizer.name == "hf:llama"
    assert tokenizer.vocabulary[:2] == ["[UNK]", "▁a"]  # the most frequent word
    assert len(tokenizer.vocabulary) < 100 < len(fitted(tmp_path / "llama", compact=False).vocabulary)
    assert (np.diff(tokenizer.document_frequency[1:]) <= 0).all()
    small = fitted(tmp_path / "llama", vocabulary_size=5)
    assert small.vocabulary == tokenizer.vocabulary[:5]
    assert small.unknown(CORPUS) > 0
    assert 0 in small.encode(CORPUS).values
    dropped = fitted(tmp_path / "llama", vocabulary_size=5, oov="drop").encode(CORPUS)
    assert dropped.values.tolist() == [i for i in small.encode(CORPUS).values.tolist() if i]


def test_bytes_spell_what_llama_has_no_letters_for(tmp_path: Path) -> None:
    tokenizer = fitted(llama2(tmp_path / "llama"), compact=False)
    pieces = tokenizer.decode(tokenizer.encode(["a 犬"]).values)
    assert pieces[-3:] == [f"<0x{byte:02X}>" for byte in "犬".encode()]


def test_saved_it_needs_its_folder_no_more(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved" / folder.name
    shutil.copytree(folder, copy)
    tokenizer = fitted(copy)
    tokenizer.save(tmp_path / "A")
    shutil.rmtree(copy)
    loaded = load_tokenizer(tmp_path / "A")
    probe = [*CORPUS, "zebra 犬 !", ""]
    assert loaded.encode(probe).values.tolist() == tokenizer.encode(probe).values.tolist()
    assert loaded.fingerprint() == tokenizer.fingerprint() == fitted(folder).fingerprint()  # not of the place


def test_nothing_to_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match=r"must be one that transformers can load.*save_pretrained"):
        fitted(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CaptionaryError, match="must be one that transformers can load"):
        fitted(tmp_path)
