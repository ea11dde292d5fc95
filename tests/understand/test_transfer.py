from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from captionary.commands.captions import captions
from captionary.errors import CaptionaryError
from captionary.understand import transfer
from captionary.understand.similar import Sign
from captionary.understand.store import CaptionRecord, CaptionStore
from captionary.understand.transfer import export_captions, import_captions, stats_of

OLD = datetime(2024, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
NEW = OLD + timedelta(days=1)
RECORDS = [
    CaptionRecord("d1", "a dog; “big” ☂", "ok", "", "", 36, 7, 12.5, OLD),
    CaptionRecord("d2", "", "failed", "empty_caption", "", 36, 1, 12.5, OLD),
    CaptionRecord("d3", "a dog", "ok", created_at=NEW, source="d1"),
]
SIGN = Sign((1 << 63) + 5, bytes(range(192)))
VECTOR = np.array([0.5, -2.0], np.float32)


@pytest.fixture
def store(tmp_path):
    with CaptionStore(tmp_path / "captions.sqlite") as opened:
        opened.put_many(RECORDS, "c1", encoder="e", vectors={"d1": VECTOR}, signs={"d1": SIGN})
        opened.put_many([CaptionRecord("d1", "un chien", created_at=OLD)], "c2")
        yield opened


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_store_goes_out_and_in_whole(tmp_path, store, suffix, monkeypatch):
    monkeypatch.setattr(transfer, "_PAGE", 2)
    file = tmp_path / f"out.{suffix}"
    assert export_captions(store, file) == 4
    with CaptionStore(tmp_path / "other.sqlite") as other:
        assert import_captions(other, file) == (4, 0, 0)
        assert list(other.rows()) == list(store.rows())
        assert other.get_signs(["d1", "d3"], "c1") == {"d1": SIGN}
        assert other.get_vectors(["d1"], "e")["d1"].tolist() == VECTOR.tolist()
        assert import_captions(other, file, conflict="replace") == (0, 0, 4)  # equal: nothing to replace


def test_what_is_exported(tmp_path, store):
    assert export_captions(store, tmp_path / "a.parquet", captioner="c2", vectors=False) == 1
    row = pq.read_table(tmp_path / "a.parquet").to_pylist()[0]
    assert (row["captioner"], row["caption"], row["created_at"], row["vectors"]) == (
        "c2",
        "un chien",
        OLD,
        [],
    )
    with pytest.raises(CaptionaryError, match=r"captioner == c3, must be .*c1, c2"):
        export_captions(store, tmp_path / "a.parquet", captioner="c3")
    with pytest.raises(CaptionaryError, match=r"must be a \.parquet or \.jsonl file"):
        export_captions(store, tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("rule", "mine", "theirs", "stays"),
    [
        ("keep", ("ok", OLD), ("ok", NEW), "mine"),
        ("keep", ("failed", NEW), ("ok", OLD), "theirs"),
        ("replace", ("ok", NEW), ("ok", OLD), "theirs"),
        ("replace", ("ok", OLD), ("failed", NEW), "mine"),
        ("newest", ("ok", OLD), ("ok", NEW), "theirs"),
        ("newest", ("ok", NEW), ("ok", OLD), "mine"),
        ("error", ("failed", OLD), ("ok", OLD), "theirs"),
    ],
)
def test_conflicts(tmp_path, rule, mine, theirs, stays):
    def record(caption, status, created):
        ok = status == "ok"
        return CaptionRecord(
            "d", caption if ok else "", status, "" if ok else "empty_caption", created_at=created
        )

    with CaptionStore(tmp_path / "theirs.sqlite") as store:
        store.put_many([record("theirs", *theirs)], "c")
        export_captions(store, tmp_path / "a.jsonl")
    with CaptionStore(tmp_path / "mine.sqlite") as store:
        store.put_many([record("mine", *mine)], "c")
        dry = import_captions(store, tmp_path / "a.jsonl", conflict=rule, dry_run=True)
        assert store.get_many(["d"], "c")["d"] == record("mine", *mine)
        assert import_captions(store, tmp_path / "a.jsonl", conflict=rule) == dry
        expected = record("mine", *mine) if stays == "mine" else record("theirs", *theirs)
        assert store.get_many(["d"], "c")["d"] == expected
        assert (dry.replaced, dry.kept) == ((0, 1) if stays == "mine" else (1, 0))


def test_a_conflict_can_stop_the_import(tmp_path, store):
    rows = [{"captioner": "c1", "media_digest": key, "caption": "a cat"} for key in ("new", "d1")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CaptionaryError, match=r"caption == a cat, must be a dog.*choose keep"):
        import_captions(store, tmp_path / "a.jsonl", conflict="error")
    assert store.get_many(["new"], "c1") == {}
    with pytest.raises(CaptionaryError, match="conflict == keeep, must be keep"):
        import_captions(store, tmp_path / "a.jsonl", conflict="keeep")


def test_a_file_of_somebody_else_needs_three_columns(tmp_path, store):
    columns = {"captioner": ["theirs"], "media_digest": ["d9"], "caption": ["a cat"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert import_captions(store, tmp_path / "a.parquet").added == 1
    assert store.get_many(["d9"], "theirs")["d9"].status == "ok"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "must be a readable .jsonl file"),
        ("[1]", "a line that is not an object"),
        ('{"captioner": "c", "caption": "x"}', "columns == captioner, caption, must be texts"),
        ('{"captioner": "c", "media_digest": "d", "caption": " "}', "must be visible where status is ok"),
        ('{"captioner": "c", "media_digest": "d", "caption": "x", "status": "no"}', "must be ok or failed"),
        (
            '{"captioner": "c", "media_digest": "d", "caption": "x", "created_at": "today"}',
            "must be readable",
        ),
        (
            '{"captioner": "c", "media_digest": "d", "caption": "x", "hash": "f", "grid": "00"}',
            "8 and 192 bytes",
        ),
        (
            '{"captioner": "c", "media_digest": "d", "caption": "x", "vectors": [{"encoder": "e", "vector": [1e9]}]}',
            "within float16",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_rows(tmp_path, store, line, message):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(CaptionaryError, match=message):
        import_captions(store, tmp_path / "a.jsonl")


def test_stats(store):
    one, other = stats_of(store)
    assert (one.captioner, one.ok, one.similar, one.failed) == ("c1", 2, 1, {"empty_caption": 1})
    assert (one.output_tokens, one.seconds, one.first, one.last) == (8, 0.025, OLD, NEW)
    assert other.to_string() == (
        "c2: 1 captions (0 of near-duplicates), 0 failures, 0 tokens, 0.0 s, 2024-01-01 to 2024-01-01"
    )


def run(*words: object):
    return CliRunner().invoke(captions, [str(word) for word in words])


def test_the_verbs(tmp_path, store):
    path, file = store.path, tmp_path / "a.parquet"
    assert (
        run("stats", path)
        .output.splitlines()[0]
        .startswith("c1: 2 captions (1 of near-duplicates), 1 failures")
    )
    assert "4 records" in run("export", path, file).output
    other = tmp_path / "new" / "captions.sqlite"
    assert "4 added" in run("import", other, file, "--dry-run").output
    assert run("stats", other).output == f"{other}: empty\n"
    assert run("import", other, file).output == "imported: 4 added, 0 replaced, 0 kept as they were\n"
    assert run("forget", other, "--captioner", "c1", "--failed", "--yes").output == "1 records forgotten\n"
    assert run("forget", other, "--captioner", "c1", "--failed").output == "nothing to forget\n"
    assert run("forget", other, "--captioner", "c1", "--before", "2024-01-02", "--yes").output.startswith(
        "1 "
    )
    assert run("forget", other, "--captioner", "c2").exit_code == 1  # not confirmed
    with CaptionStore(other) as opened:
        assert [(name, record.media_digest) for name, record in opened.rows()] == [("c1", "d3"), ("c2", "d1")]
        assert opened.get_signs(["d1"], "c1") == {}


def test_verbs_make_no_store_by_mistake(tmp_path):
    for words in (["stats"], ["export"], ["forget"]):
        rest = {"export": [tmp_path / "a.parquet"], "forget": ["--captioner", "c"]}.get(words[0], [])
        found = run(*words, tmp_path / "none.sqlite", *rest)
        assert isinstance(found.exception, CaptionaryError)
    assert list(tmp_path.iterdir()) == []
