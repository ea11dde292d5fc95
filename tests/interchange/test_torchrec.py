"""The batches that a TorchRec model is given; the tests that need torchrec itself say so."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.interchange.shop import day, impressions, numbered, source
from tests.optional import optional

from captionary.errors import CaptionaryError
from captionary.interchange.parquet import export_features
from captionary.interchange.torchrec import Feature, features_of, read_export, to_keyed_jagged, to_tensors
from captionary.rank.bags import Lists, pool
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import Profiles, SharedProfiles, build_profiles

RED, SOFA, DOG, BLUE = 3, 4, 2, 1
ROOT = Path(__file__).parents[2]
LISTS = Jagged.from_lists([[7, 3], [], [5]])
SHARED = Jagged.from_lists([[], [9, 2]])._replace(weights=np.array([0.75, 0.25], np.float32))
MASS = np.zeros(4, np.float32)


@pytest.fixture
def torchrec() -> Any:
    return optional("torchrec", reason="torchrec is not installed: see docs/interchange.md")


def features() -> dict[str, Feature]:
    shared = SharedProfiles(SHARED, np.array([1, 0, 1, 0]), MASS)
    return features_of(LISTS, np.array([0, 2, -1, 1]), {"like": shared})


def same(lists: Lists, values: list[int], offsets: list[int], weights: list[float]) -> None:
    assert lists.values.tolist() == values
    assert lists.offsets.tolist() == offsets
    assert lists.weights.tolist() == weights
    assert (lists.values.dtype, lists.offsets.dtype) == (torch.int64, torch.int64)
    assert lists.weights.dtype == torch.float32


def test_a_row_has_its_items_tokens_and_its_profile() -> None:
    made = to_tensors(features())
    same(made["item_tokens"], [7, 3, 5], [0, 2, 3, 3, 3], [1, 1, 1])
    same(made["profile_like"], [9, 2, 9, 2], [0, 2, 2, 4, 4], [0.75, 0.25, 0.75, 0.25])


def test_a_batch_is_some_rows_in_any_order() -> None:
    made = to_tensors(features(), np.array([1, 0, 0]))
    same(made["item_tokens"], [5, 7, 3, 7, 3], [0, 1, 3, 5], [1] * 5)
    same(made["profile_like"], [9, 2, 9, 2], [0, 0, 2, 4], [0.75, 0.25, 0.75, 0.25])
    nothing = to_tensors(features(), np.array([], np.int64))
    same(nothing["item_tokens"], [], [0], [])


def test_profiles_of_their_own_and_shared_ones_make_the_same_batch() -> None:
    shared = SharedProfiles(SHARED, np.array([1, 0, 1, 0]), MASS)
    whole = Profiles(SHARED.take(shared.list_of), MASS)
    item = np.array([0, 1, 2, 0])
    made = [to_tensors(features_of(LISTS, item, {"like": built})) for built in (shared, whole)]
    assert all(map(torch.equal, made[0]["profile_like"], made[1]["profile_like"]))


def test_without_torchrec_the_batch_is_a_plain_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrec", None)
    made = to_keyed_jagged(features(), np.array([0]))
    assert list(made) == ["item_tokens", "profile_like"]
    same(made["item_tokens"], [7, 3], [0, 2], [1, 1])


def test_a_torchrec_that_lacks_something_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchrec").mkdir()
    (tmp_path / "torchrec" / "__init__.py").write_text("import no_such_kernels\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchrec"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CaptionaryError, match="torchrec == without no_such_kernels, must be installed with"):
        to_keyed_jagged(features())


@pytest.mark.parametrize(
    ("changed", "rows", "said"),
    [
        ({}, [4], r"rows == 4 to 4, must be in 0\.\.3"),
        ({}, [-1], "rows == -1 to -1"),
        ({"item_tokens": Feature(LISTS)}, None, "must be one number for all"),
        (
            {"item_tokens": Feature(LISTS, np.array([0, 1, 2, 3]))},
            None,
            r"list_of item_tokens == 0 to 3, must be",
        ),
    ],
)
def test_rows_that_are_not_there_are_refused(changed: Any, rows: Any, said: str) -> None:
    with pytest.raises(CaptionaryError, match=said):
        to_tensors({**features(), **changed}, None if rows is None else np.array(rows))


def test_a_keyed_jagged_tensor_pools_to_what_our_bags_give(torchrec: Any) -> None:
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

    torch.manual_seed(0)
    made, rows = features(), np.array([3, 0, 2, 1, 0])
    batch = to_keyed_jagged(made, rows)
    assert isinstance(batch, torchrec.KeyedJaggedTensor)
    assert batch.keys() == ["item_tokens", "profile_like"]
    assert batch.lengths().view(2, 5).tolist() == [[0, 2, 0, 1, 2], [0, 2, 2, 0, 2]]
    config = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=10, feature_names=list(made))
    model = EmbeddingBagCollection(tables=[config], is_weighted=True)
    table = torch.randn(10, 4)
    model.embedding_bags["t"].weight.data.copy_(table)
    theirs = model(batch)
    for key, lists in to_tensors(made, rows).items():
        torch.testing.assert_close(theirs[key], pool(table, lists))


@pytest.mark.parametrize("shop", [source, numbered])
def test_an_export_gives_each_request_its_lists(tmp_path: Path, shop: Any) -> None:
    export_features(tmp_path / "out", shop(), as_of=[day(2.5), day(6)])
    export = read_export(tmp_path / "out")
    assert export.keys == ["item_tokens", "profile_add to cart", "profile_like"]
    assert export.vocabulary_size == 5
    one, two, nobody = ("u1", "u2", "u9") if shop is source else (1, 2, 9)
    assert export.user_ids.to_pylist()[:2] == [one, two]
    items = pa.chunked_array([export.item_ids.take(pa.array([4])), export.item_ids.take(pa.array([0, 0]))])
    made = to_tensors(export.features([two, one, nobody], items))
    assert made["item_tokens"].values.tolist() == [BLUE, SOFA, RED, SOFA, RED, SOFA]
    assert made["profile_like"].values.tolist() == [BLUE, SOFA, DOG, RED, DOG, SOFA]
    assert made["profile_like"].offsets.tolist() == [0, 3, 6, 6]
    assert made["profile_add to cart"].offsets.tolist() == [0, 0, 2, 2]
    early = read_export(tmp_path / "out", as_of=day(3)).features([two], export.item_ids[:1])
    assert to_tensors(early)["profile_like"].values.tolist() == [BLUE, DOG]


def test_requests_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    export_features(tmp_path / "out", source())
    export = read_export(tmp_path / "out")
    with pytest.raises(CaptionaryError, match="user_ids == 1 ids, must be one for each of 2 item_ids"):
        export.features(["u1"], ["i0", "i1"])
    with pytest.raises(CaptionaryError, match="user_ids == ids of type"):
        export.features([{"u": 1}], ["i0"])


def test_files_of_two_tokenizers_are_not_mixed(tmp_path: Path) -> None:
    export_features(tmp_path / "a", source())
    other = source().tokenizer.grow(["a green cat"])
    export_features(tmp_path / "b", source(tokenizer=other))
    (tmp_path / "b" / "profiles" / "like.parquet").replace(tmp_path / "a" / "profiles" / "like.parquet")
    with pytest.raises(CaptionaryError, match="tokenizer_fingerprint == another"):
        read_export(tmp_path / "a")


def test_a_training_table_has_point_in_time_lists() -> None:
    shop, shown = source(), impressions()
    built = build_profiles(
        shop.events, shown, shop.item_ids, shop.item_tokens, shop.profiles, shop.tokenizer.idf()
    )
    made = to_tensors(features_of(shop.item_tokens, np.array([2, 4, 1]), built))
    assert made["item_tokens"].values.tolist() == [RED, DOG, BLUE, SOFA]
    # u1 likes i2 (red dog) at that very moment: its list must not know
    assert made["profile_like"].values.tolist()[:2] == [RED, SOFA]
    assert made["profile_like"].offsets.tolist() == [0, 2, 5, 5]


def test_the_example_of_the_docs_runs(torchrec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_features(tmp_path / "out", source())
    monkeypatch.setattr(sys, "argv", ["torchrec_features.py", str(tmp_path / "out")])
    done = runpy.run_path(str(ROOT / "examples" / "torchrec_features.py"))
    assert {key: tuple(done["pooled"][key].shape) for key in done["export"].keys} == dict.fromkeys(
        ("item_tokens", "profile_add to cart", "profile_like"), (5, 16)
    )
    assert done["pooled"]["item_tokens"][1].abs().sum() == 0, "i1 has no tokens"
    assert done["pooled"]["item_tokens"][0].abs().sum() > 0


def test_the_docs_show_the_example_as_it_is() -> None:
    text = (ROOT / "examples" / "torchrec_features.py").read_text()
    code = text.partition('"""\n\n')[2]
    assert code.strip() in (ROOT / "docs" / "interchange.md").read_text()
    lines = [line for line in code.splitlines() if re.match(r"\S", line)]
    assert len(lines) == 10
