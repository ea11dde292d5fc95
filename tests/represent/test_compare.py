from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from captionary.commands.tokenizers import tokenizers
from captionary.errors import CaptionaryError
from captionary.represent.compare import Comparison, Gain, compare_tokenizers, divergence
from captionary.represent.tokenizers import TokenizerConfig

OLD = ["a red dog on a sofa", "a cat on a bed", "a dog in the snow", "a red car"] * 20
NEW = ["a zebra on a sofa", "a zebra in the snow"] * 10
KINDS = ("concepts", "phrases", "wordpiece", "bpe", "unigram", "hash")


@pytest.fixture(scope="module")
def compared() -> Comparison:
    configs = [TokenizerConfig(kind=kind) for kind in KINDS]
    return compare_tokenizers([*OLD, *NEW], configs, later=0.2, slices=5, repeats=1)


def test_divergence_is_jensen_and_shannon_s() -> None:
    # the middle of (1, 0) and (1/2, 1/2) is (3/4, 1/4)
    first = 1 * np.log2(1 / 0.75)
    second = 0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)
    assert divergence(np.array([2, 0]), np.array([3, 3])) == pytest.approx((first + second) / 2)
    assert divergence(np.array([1, 0]), np.array([0, 7])) == 1
    assert divergence(np.array([1, 2]), np.array([2, 4])) == 0
    assert np.isnan(divergence(np.array([0, 0]), np.array([1, 0])))


def test_what_is_new_is_out_of_vocabulary(compared: Comparison) -> None:
    assert (compared.earlier, compared.later, compared.by_time) == (80, 20, False)
    concepts = compared.rows[0]
    # "zebra, sofa, zebra on sofa" and "zebra, snow": sofa and snow are known
    assert concepts.oov == pytest.approx((2 + 1) / (3 + 2))
    assert concepts.coverage == 1
    assert concepts.length == pytest.approx(
        # dog on sofa: red, dog, red dog, sofa, dog on sofa; cat, bed, cat on bed; dog, snow; red, car, red car
        (20 * (5 + 3 + 2 + 3) + 10 * 1 + 10 * 1) / 100
    )
    assert compared.rows[-1].oov == 0


def test_growth_keeps_every_id_where_a_refit_does_not(compared: Comparison) -> None:
    for row in compared.rows:
        assert row.stable == row.projected == 1
        assert row.added > 0 or row.kind == "hash"
    assert any(row.stable_refit < 1 for row in compared.rows)
    assert compared.rows[-1].stable_refit == 1  # a hash has nothing to refit


def test_only_a_small_hash_makes_words_collide(compared: Comparison) -> None:
    assert [row.collisions for row in compared.rows[:-1]] == [0] * 5
    tiny = TokenizerConfig(kind="hash", vocabulary_size=3, ngrams=1)
    (row,) = compare_tokenizers([*OLD, *NEW], [tiny], repeats=1).rows
    assert row.words >= 6
    assert row.collisions >= row.words - 1  # two buckets hold them all


def test_drift_is_where_the_captions_change(compared: Comparison) -> None:
    row = next(row for row in compared.rows if row.kind == "hash")
    assert len(row.drift_by_slice) == 4
    assert int(np.argmax(row.drift_by_slice)) == 3  # the last fifth is of zebras
    assert row.drift > row.drift_by_chance


def test_later_is_by_time_where_there_is_time() -> None:
    times = np.arange(100).astype("datetime64[us]")
    shuffled = np.random.default_rng(0).permutation(100)
    captions = [[*OLD, *NEW][index] for index in shuffled]
    (row,) = compare_tokenizers(captions, [TokenizerConfig()], created_at=times[shuffled], repeats=1).rows
    assert row.oov == pytest.approx(3 / 5)
    nothing = np.full(100, np.datetime64("NaT"), "datetime64[us]")
    assert not compare_tokenizers(captions, [TokenizerConfig()], created_at=nothing, repeats=1).by_time


def test_bad_settings_are_refused() -> None:
    for wrong in ({"later": 0.0}, {"slices": 1}, {"repeats": 0}):
        with pytest.raises(CaptionaryError, match=f"{next(iter(wrong))} == "):
            compare_tokenizers(OLD, [TokenizerConfig()], **wrong)  # type: ignore[arg-type]
    with pytest.raises(CaptionaryError, match="captions == 3, must be >= 8"):
        compare_tokenizers(["a dog", "", "a", "b"], [TokenizerConfig()])
    with pytest.raises(CaptionaryError, match="tokenizer name == concepts, must be given once"):
        compare_tokenizers(OLD, [TokenizerConfig(), TokenizerConfig(min_df=3)])


def test_the_table_says_gains_where_they_were_asked_for(compared: Comparison) -> None:
    assert "AUC gain" not in compared.to_markdown()
    table = compared.with_gains({"bpe": Gain(0.0123, (0.01, 0.0146), 0.004)}).to_markdown()
    assert "+1.23 % (+1.00 … +1.46) | +0.40 %" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_the_command_prints_plots_and_writes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: nothing to plot with")
    source = tmp_path / "captions.csv"
    lines = [f"{text},2026-01-{1 + row % 28:02}T00:00:00Z" for row, text in enumerate([*OLD, *NEW])]
    source.write_text("\n".join(["caption,created_at", *lines]))
    out = tmp_path / "out"
    words = ["compare", str(source), "--out", str(out), "--tokenizer", "bpe", "--tokenizer", "hash"]
    found = CliRunner().invoke(tokenizers, words, catch_exceptions=False)
    assert found.exit_code == 0
    assert "| bpe |" in found.output
    assert "by created_at" in found.output
    said = json.loads((out / "comparison.json").read_text())
    assert [row["name"] for row in said["rows"]] == ["bpe", "hash"]
    assert (out / "comparison.md").read_text() in found.output
    first = (out / "comparison.svg").read_text()
    assert first.count("</svg>") == 1
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("text\na dog\n")
    for source, message in (
        ("captions.csv", "must be with caption among them"),
        ("none.csv", "a readable file of captions"),
        ("captions.doc", "must be a .yaml, .csv"),
    ):
        with pytest.raises(CaptionaryError, match=message):
            CliRunner().invoke(tokenizers, ["compare", str(tmp_path / source)], catch_exceptions=False)
    with pytest.raises(CaptionaryError, match="--gain == "):
        CliRunner().invoke(
            tokenizers, ["compare", str(tmp_path / "captions.csv"), "--gain"], catch_exceptions=False
        )
