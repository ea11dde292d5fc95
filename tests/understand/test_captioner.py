from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.understand.fake import FakeCaptioner, items_of

from captionary.config import from_mapping
from captionary.errors import CaptionaryError
from captionary.understand import captioner as module
from captionary.understand.caption import caption_items
from captionary.understand.captioner import (
    Caption,
    Captioner,
    CaptionerConfig,
    EmbeddingCaptioner,
    ImportedCaptions,
    NoCaptioner,
    StoppedError,
    embeds,
    fingerprint_of,
    load_captioner,
    prompted,
)
from captionary.understand.store import CaptionStore


def write(path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(",".join(f'"{value}"' for value in line) + "\n" for line in lines))


FORMATS = ["a.csv", "a.parquet", "a.jsonl"]


@pytest.mark.parametrize("name", FORMATS)
def test_import_by_item_id(tmp_path, name):
    write(
        tmp_path / name,
        [{"item_id": 17, "caption": 'a "red", dog'.replace('"', "")}, {"item_id": 3, "caption": ""}],
    )
    captions = ImportedCaptions(tmp_path / name)
    assert captions.lookup(17, None) == "a red, dog"
    assert captions.lookup("17", "any.jpg") == "a red, dog"
    assert captions.lookup(3, None) == ""
    assert captions.lookup(4, None) is None
    assert len(captions) == 2


@pytest.mark.parametrize("name", FORMATS)
def test_import_by_media(tmp_path, name):
    write(tmp_path / name, [{"media": "images/1.jpg", "caption": "a dog", "score": 0.5}])
    captions = ImportedCaptions(tmp_path / name)
    assert captions.key == "media"
    assert captions.lookup(1, "images/1.jpg") == "a dog"
    assert captions.lookup("images/1.jpg", None) is None


def test_import_of_what_other_tools_write(tmp_path):
    write(tmp_path / "ids.parquet", [{"item_id": 17.0, "caption": "a dog"}])  # pandas, ids with gaps
    assert ImportedCaptions(tmp_path / "ids.parquet").lookup(17, None) == "a dog"
    write(
        tmp_path / "media.jsonl", [{"media": ["1.jpg", "2.jpg"], "caption": "a dog"}]
    )  # a contract's column
    assert ImportedCaptions(tmp_path / "media.jsonl").lookup(0, "1.jpg") == "a dog"
    (tmp_path / "excel.csv").write_text('item_id,caption\r\n007,"two\r\nlines"\r\n', encoding="utf-8-sig")
    assert ImportedCaptions(tmp_path / "excel.csv").lookup("007", None) == "two\r\nlines"
    both = [{"item_id": i, "media": "same.jpg", "caption": f"caption {i}"} for i in range(2)]
    write(tmp_path / "both.csv", both)
    assert ImportedCaptions(tmp_path / "both.csv").lookup(1, "same.jpg") == "caption 1"


def test_import_fingerprint_is_of_the_content(tmp_path):
    for name, caption in (("a.csv", "a dog"), ("b.csv", "a dog"), ("c.csv", "a cat")):
        write(tmp_path / name, [{"item_id": 1, "caption": caption}])
    a, b, c = (ImportedCaptions(tmp_path / name).fingerprint for name in ("a.csv", "b.csv", "c.csv"))
    assert a == b != c


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a file with at least one row"),
        ("a.csv", b"item_id,caption\n", "a file with at least one row"),
        (
            "a.csv",
            b"id,text\n1,a dog\n",
            "columns == id, text, must be caption and item_id or media; .*row 2",
        ),
        ("a.csv", b"item_id,caption\n1,a dog\n1,a cat\n", "item_id == 1, must be unique; .*row 3"),
        ("a.csv", b"item_id,caption\n,a dog\n", "must be given; .*row 2"),
        ("a.csv", b'item_id,caption\n1,"a dog\n', "must be a valid .csv file"),
        ("a.csv", b"item_id,caption\n1,\xff\xfe\n", "must be a valid .csv file"),
        ("a.jsonl", b'{"item_id": 1, "caption": "a dog"}\n{"item_id"', "must be a valid .jsonl file"),
        ("a.jsonl", b"[1]\n", "must be a valid .jsonl file; line 1 is not an object"),
        ("a.jsonl", b"[" * 100_000, "must be a valid .jsonl file"),
        ("a.parquet", b"PAR1 and then nothing", "must be a valid .parquet file"),
        ("a.xlsx", b"PK", "a .csv, .parquet or .jsonl file"),
    ],
)
def test_bad_import_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CaptionaryError, match=message) as caught:
        ImportedCaptions(tmp_path / name)
    assert name in str(caught.value)


def test_the_same_row_twice_is_no_contradiction(tmp_path):
    write(tmp_path / "a.csv", [{"item_id": 1, "caption": "a dog"}] * 2)
    assert len(ImportedCaptions(tmp_path / "a.csv")) == 1


def test_missing_import_file(tmp_path):
    config = CaptionerConfig(source="import:none.csv")
    with pytest.raises(CaptionaryError, match=r"none\.csv, must be a readable file; missing"):
        load_captioner(config, tmp_path)


def test_load_import_from_base(tmp_path):
    write(tmp_path / "a.csv", [{"item_id": 1, "caption": "a dog"}])
    captions = load_captioner(
        from_mapping(CaptionerConfig, {"source": "import:a.csv"}, where="test"), tmp_path
    )
    assert isinstance(captions, ImportedCaptions)
    assert captions.name == "import:a.csv"


def test_a_captioner_is_named_before_it_is_built(tmp_path):
    for name, caption in (("a.csv", "a dog"), ("b.csv", "a dog"), ("c.csv", "a cat")):
        write(tmp_path / name, [{"item_id": 1, "caption": caption}])
    a, b, c = (fingerprint_of(CaptionerConfig(source=f"import:{n}.csv"), tmp_path) for n in "abc")
    assert a == b != c
    assert fingerprint_of(CaptionerConfig()) != fingerprint_of(CaptionerConfig(max_new_tokens=5))
    assert fingerprint_of(CaptionerConfig()) == fingerprint_of(CaptionerConfig(batch_size=5, threads=1))
    with pytest.raises(CaptionaryError, match=r"import == none\.csv, must be a readable file; missing"):
        fingerprint_of(CaptionerConfig(source="import:none.csv"), tmp_path)


def test_no_captioner_is_for_items_without_media(tmp_path):
    with CaptionStore(tmp_path / "captions.sqlite") as store:
        report = caption_items(items_of([[], None]), tmp_path, NoCaptioner(), store)
    assert report.skipped == {"no_media": 2}


def test_load_builtin(monkeypatch):
    made = {}

    class Module:
        @staticmethod
        def BuiltinCaptioner(**options: int) -> FakeCaptioner:  # noqa: N802
            made.update(options)
            return FakeCaptioner()

    monkeypatch.setitem(sys.modules, "captionary.understand.builtin", Module)
    load_captioner(CaptionerConfig(batch_size=7, max_new_tokens=9, threads=1))
    assert made == {"batch_size": 7, "max_new_tokens": 9, "threads": 1, "device": "auto"}
    load_captioner(CaptionerConfig(device="cuda:1"))
    assert made["device"] == "cuda:1"


def checkpoint(folder, words: str = "{}"):
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(words)
    return folder


def test_load_a_checkpoint_folder(tmp_path, monkeypatch):
    made = {}

    class Module:
        @staticmethod
        def BuiltinCaptioner(**options: object) -> FakeCaptioner:  # noqa: N802
            made.update(options)
            return FakeCaptioner()

    monkeypatch.setitem(sys.modules, "captionary.understand.builtin", Module)
    folder = checkpoint(tmp_path / "mine")
    load_captioner(CaptionerConfig(source="builtin:mine"), tmp_path)
    assert made["checkpoint"] == folder
    load_captioner(CaptionerConfig(source=f"builtin:{folder}"))
    assert made["checkpoint"] == folder


def test_a_checkpoint_is_named_by_its_files(tmp_path):
    checkpoint(tmp_path / "a")
    checkpoint(tmp_path / "b")
    checkpoint(tmp_path / "c", "{ }")
    (tmp_path / "a" / "work").mkdir()
    a, b, c = (fingerprint_of(CaptionerConfig(source=f"builtin:{name}"), tmp_path) for name in "abc")
    assert a == b != c
    (tmp_path / "b" / "tokenizer.json").unlink()
    for call in (fingerprint_of, load_captioner):
        with pytest.raises(
            CaptionaryError, match=r"builtin == b, must be a folder with .*tokenizer\.json: missing"
        ):
            call(CaptionerConfig(source="builtin:b"), tmp_path)


def test_the_shipped_checkpoint_by_its_folder_is_the_shipped_one():
    folder = Path(module.__file__).parent / "checkpoints" / "builtin"
    assert fingerprint_of(CaptionerConfig(source=f"builtin:{folder}")) == fingerprint_of(CaptionerConfig())


def test_who_takes_texts():
    assert not prompted(FakeCaptioner())
    stopped = StoppedError("a cap", [Caption("a dog"), None])
    assert isinstance(stopped, CaptionaryError)
    assert stopped.answered == [Caption("a dog"), None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "bultin"}, r"source == bultin, must be builtin \(did you mean that\?\) or one of"),
        ({"source": "blip"}, "source == blip, must be .*one of builtin, hf, import, openai.*hf:ID"),
        ({"source": "import:"}, "source == import:, must be import:FILE"),
        ({"source": "hf:"}, "source == hf:, must be hf:ID"),
        ({"source": "hf"}, "source == hf, must be hf:ID"),
        ({"source": "openai:gpt"}, "openai == gpt, must be URL#model"),
        ({"source": "opneai:https://user:pa55@h"}, r"source == opneai, must be openai \(did you"),
        ({"prompt": "style"}, "prompt == style, must be left out; builtin captions are not asked"),
        ({"endpoint": {"retries": 1}}, "endpoint == .given., must be left out; source is builtin"),
        ({"endpoint": {"retires": 1}}, r"key == retires, must be retries \(did you mean that\?\)"),
        ({"dtype": "float8"}, r"dtype == float8, must be"),
        ({"dtype": "float16"}, "dtype == float16, must be left out; source is builtin"),
        ({"device": "gpu"}, "device == gpu, must be auto, cpu, cuda or cuda:NUMBER"),
        (
            {"device": "cpu", "source": "import:a.csv"},
            "device == cpu, must be left out; import captions are not",
        ),
        ({"device": "cuda", "source": "openai:http://h/v1#m"}, "device == cuda, must be left out; openai"),
        ({"batch_size": -1}, "batch_size == -1, must be >= 0; test"),
        ({"max_new_tokens": 0}, "max_new_tokens == 0"),
        ({"threads": -1}, "threads == -1, must be >= 0"),
        ({"sauce": "builtin"}, "did you mean"),
    ],
)
def test_bad_configs(options, message):
    with pytest.raises(CaptionaryError, match=message):
        from_mapping(CaptionerConfig, options, where="test")


def test_the_fake_is_a_captioner():
    plain: Captioner = FakeCaptioner()
    rich: EmbeddingCaptioner = FakeCaptioner(vector_size=4)
    assert not embeds(plain)
    assert embeds(rich)


def test_the_protocol_imports_neither_torch_nor_arrow():
    code = f"import sys, {module.__name__}; print([m for m in ('torch', 'pyarrow') if m in sys.modules])"
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
