"""`captionary export-features` on a run whose captions are imported: every stage is the real one."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from tests.interchange.shop import CAPTIONS, EVENTS, ITEMS, day, source

from captionary.commands.export_features import export_features
from captionary.contract import DatasetSpec, Split, Task, write_spec, write_table
from captionary.errors import CaptionaryError
from captionary.interchange.parquet import read_metadata

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run over the shop, in which i4 is held out."""
    root = tmp_path_factory.mktemp("run")
    times = pa.array([day(number) for *_, number in EVENTS], UTC_MICROSECONDS)
    users, items = [user for user, *_ in EVENTS], [item for _, item, *_ in EVENTS]
    shop = source()
    tables = {
        "items": {"item_id": ITEMS, "media": pa.array([[]] * 5, pa.list_(pa.string()))}
        | {"created_at": shop.created_at},
        "events": {"user_id": users, "item_id": items, "event": [event for _, _, event, _ in EVENTS]}
        | {"timestamp": times},
        "impressions": {"impression_id": range(6), "user_id": users, "item_id": items, "timestamp": times}
        | {"like": [True, False] * 3, "split": ["eval" if item == "i4" else "train" for item in items]},
    }
    for name, columns in tables.items():
        arrays = {key: pa.array(value) for key, value in columns.items()}
        write_table(pa.table(arrays), root / "shop" / f"{name}.parquet")
    spec = DatasetSpec(
        name="shop",
        tasks=(Task(name="like"),),
        splits={"cold": Split(column="split", kind="items")},
        default_split="cold",
        event_types=("add to cart", "like"),
    )
    write_spec(spec, root / "shop")
    captions = pa.table({"item_id": ITEMS, "caption": CAPTIONS})
    write_table(captions, root / "captions.parquet")
    chosen = {"min_df": 1, "max_df": 1.0, "phrases": False}
    config = {
        "name": "shop",
        "data": {"path": "shop"},
        "runs": str(root / "runs"),
        "captioner": {"source": f"import:{root / 'captions.parquet'}"},
        "tokenizers": {"A": {"kind": "concepts", **chosen}, "B": {"kind": "wordpiece"}},
        "profiles": {"half_life_days": 2.0},
    }
    (root / "shop.yaml").write_text(yaml.safe_dump(config))
    return root / "shop.yaml"


def call(*args: object) -> Result:
    return CliRunner().invoke(export_features, [str(arg) for arg in args], catch_exceptions=False)


def test_a_run_is_exported_with_a_feast_repository(run: Path, tmp_path: Path) -> None:
    out, repo = tmp_path / "out", tmp_path / "repo"
    told = call(run, out, "--as-of", "2025-01-03T12:00:00+00:00", "--impressions", "--feast", repo)
    assert told.exit_code == 0
    assert f"feast -c {repo} apply" in told.output
    assert (repo / "feature_store.py").exists()
    items = pq.read_table(out / "item_tokens.parquet")
    assert items["item_id"].to_pylist() == ITEMS
    assert items["event_timestamp"].to_pylist()[0] == day(-9)
    about = read_metadata(out / "profiles" / "like.parquet")
    assert (about.tokenizer, about.half_life_days) == ("concepts", 2.0)
    assert about.as_of == ("2025-01-03T12:00:00+00:00",)
    shown = pq.read_table(out / "impressions" / "like.parquet")
    assert shown["impression_id"].to_pylist() == list(range(6))
    # the lists of the run itself
    own = run.parent / "runs" / "shop" / "tokens" / "A" / "item_tokens.parquet"
    assert pq.read_table(own)["token_ids"].to_pylist() == items["token_ids"].to_pylist()


def test_events_of_held_out_items_are_seen_only_when_asked_for(run: Path, tmp_path: Path) -> None:
    assert "profiles as of 2025-01-04T00:00:00.000001+00:00" in call(run, tmp_path / "out").output
    told = call(run, tmp_path / "all", "--held-out")
    assert "profiles as of 2025-01-06T00:00:00.000001+00:00" in told.output
    mass = {}
    for name in ("out", "all"):
        rows = pq.read_table(tmp_path / name / "profiles" / "like.parquet").to_pylist()
        mass[name] = {row["user_id"]: row["mass"] for row in rows}
    assert mass["out"]["u2"] == pytest.approx(2 ** -(1 / 2))  # i3 a day before
    assert mass["all"]["u2"] == pytest.approx(2 ** -(3 / 2) + 1)  # three days before; i4 just now


def test_another_tokenizer_can_be_chosen(run: Path, tmp_path: Path) -> None:
    assert call(run, tmp_path / "out", "--tokenizer", "B").exit_code == 0
    assert read_metadata(tmp_path / "out" / "item_tokens.parquet").tokenizer == "wordpiece"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tokenizer", "C"], "tokenizer == C, must be one of A, B; run shop"),
        (["--as-of", "2025-01-03"], "--as-of == 2025-01-03, must be a time with its zone"),
        (["--as-of", "noon"], "--as-of == noon, must be a time with its zone"),
    ],
)
def test_mistakes_are_told(run: Path, tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(CaptionaryError, match=said):
        call(run, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
