"""The generated repository, used by Feast itself; the Feast of CAPTIONARY_FEAST_PYTHON, or else of this Python."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from tests.interchange.shop import day, numbered, source

from captionary.errors import CaptionaryError
from captionary.interchange.feast import view_names, write_repository
from captionary.interchange.parquet import export_features
from captionary.represent.profiles import ProfileConfig

RED, SOFA, DOG, BLUE = 3, 4, 2, 1
SESSION = Path(__file__).with_name("feast_session.py")


@pytest.fixture(scope="session")
def feast_python() -> str:
    """A Python that has Feast: its pandas may not be ours."""
    if named := os.environ.get("CAPTIONARY_FEAST_PYTHON"):
        return named
    if importlib.util.find_spec("feast") is None:
        pytest.skip("Feast is not installed: pip install 'captionary[feast]', or name a Python that has it in "
                    "CAPTIONARY_FEAST_PYTHON")  # fmt: skip
    return sys.executable


def ask(python: str, folder: Path, ids: dict[str, list[Any]]) -> dict[str, Any]:
    """Apply, materialize and ask, in a process of its own; the folder is moved in between, as a deployment would."""
    made = write_repository(folder / "made" / "repo", folder / "made" / "export")
    (folder / "made").rename(folder / "moved")
    questions = {
        "online": {f"captionary_{name.removesuffix('_id')}": {name: asked} for name, asked in ids.items()},
        "past": {
            "user_id": [ids["user_id"][1]] * 3,
            "event_timestamp": [day(1).isoformat(), day(3).isoformat(), day(7).isoformat()],
        },
    }
    (folder / "questions.json").write_text(json.dumps(questions))
    times = [f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in (made.start, made.end)]
    files = [str(folder / "questions.json"), str(folder / "answers.json")]
    done = subprocess.run(
        [python, str(SESSION), str(folder / "moved" / "repo"), *times, *files],
        env={**os.environ, "FEAST_USAGE": "False", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "answers.json").read_text())


def test_feast_applies_materializes_and_serves(tmp_path: Path, feast_python: str) -> None:
    export_features(tmp_path / "made" / "export", source(), as_of=[day(2.5), day(6)])
    ids = {"item_id": ["i0", "i1", "i4", "nobody's"], "user_id": ["u1", "u2", "u3", "nobody"]}
    answers = ask(feast_python, tmp_path, ids)
    items, users = answers["captionary_item"], answers["captionary_user"]
    assert items["item_tokens__token_ids"] == [[RED, SOFA], [], [BLUE, SOFA], None]
    assert users["profile_add_to_cart__token_ids"] == [[BLUE, DOG], None, None, None]
    assert users["profile_like__token_ids"] == [[RED, DOG, SOFA], [BLUE, SOFA, DOG], [], None]
    old, new = 2 ** -(6 / 2), 2 ** -(4 / 2)  # u1: i0 (red sofa) six days ago, i2 (red dog) four days ago
    expected = [(old + new) / (2 * (old + new)), new / (2 * (old + new)), old / (2 * (old + new))]
    assert users["profile_like__weights"][0] == pytest.approx(expected, rel=1e-6)
    assert users["profile_like__mass"][0] == pytest.approx(old + new)
    # u2 liked i4 on day 5: the snapshot of day 2.5 does not know, and is what day 3 is given
    assert [told for told in answers["past"] if told is not None] == [[BLUE, DOG], [BLUE, SOFA, DOG]]
    like = answers["tags"]["profile_like"]
    assert (like["half_life_days"], like["as_of"]) == ("2.0", "2025-01-07T00:00:00+00:00")
    assert {tags["tokenizer_fingerprint"] for tags in answers["tags"].values()} == {
        source().tokenizer.fingerprint()
    }


def test_feast_takes_integer_ids_weights_of_items_and_any_event_type(
    tmp_path: Path, feast_python: str
) -> None:
    shop = source()
    assert shop.events is not None
    kinds = ["いいね/100%" if kind == "add to cart" else kind for kind in shop.events["event"].to_pylist()]
    events = shop.events.set_column(2, "event", pa.array(kinds))
    shop = numbered(events=events, profiles=ProfileConfig(half_life_days=2.0))
    export_features(tmp_path / "made" / "export", shop, as_of=[day(2.5), day(6)])
    answers = ask(feast_python, tmp_path, {"item_id": [0, 9], "user_id": [1, 2]})
    items, users = answers["captionary_item"], answers["captionary_user"]
    assert items["item_tokens__weights"] == [[0.5, 0.5], None]
    assert users["profile_like__token_ids"] == [[RED, DOG, SOFA], [BLUE, SOFA, DOG]]
    assert users["profile__100___token_ids"] == [[BLUE, DOG], None]


def test_the_repository_is_plain_python_and_yaml(tmp_path: Path) -> None:
    export_features(tmp_path / "export", source(), as_of=[day(6)])
    made = write_repository(tmp_path / "repo", tmp_path / "export", project="shop", ttl_days=1.5)
    settings = yaml.safe_load((tmp_path / "repo" / "feature_store.yaml").read_text())
    assert settings["project"] == "shop"
    assert (settings["provider"], settings["offline_store"]["type"]) == ("local", "file")
    assert settings["online_store"]["type"] == "sqlite"
    text = (tmp_path / "repo" / "feature_store.py").read_text()
    compile(text, "feature_store.py", "exec")
    assert text.count("timedelta(seconds=129600)") == 2, "1.5 days, of two event types"
    assert "path='../export/profiles/add to cart.parquet'" in text
    assert made.views == {"item_tokens": "", "profile_add_to_cart": "add to cart", "profile_like": "like"}
    # i4 came on day 9: after the snapshot
    assert made.to_string().endswith(" materialize 1970-01-01T00:00:00 2025-01-10T00:00:01")


def test_items_alone_make_a_repository(tmp_path: Path) -> None:
    export_features(tmp_path / "export", source(events=None))
    made = write_repository(tmp_path / "repo", tmp_path / "export")
    assert made.views == {"item_tokens": ""}
    assert "user" not in (tmp_path / "repo" / "feature_store.py").read_text().replace("users' profiles", "")


def test_names_are_those_that_feast_can_tell_apart() -> None:
    """Feast takes ASCII, and Like and like are one name to it."""
    assert view_names(["Like", "like", "add to cart", "add-to-cart", "いいね", "いや"]) == {
        "Like": "profile_Like",
        "like": "profile_like_2",
        "add to cart": "profile_add_to_cart",
        "add-to-cart": "profile_add_to_cart_2",
        "いいね": "profile__",
        "いや": "profile___2",
    }


def test_a_repository_may_be_written_again_but_not_over_somebody_elses(tmp_path: Path) -> None:
    export_features(tmp_path / "export", source())
    write_repository(tmp_path / "repo", tmp_path / "export")
    (tmp_path / "repo" / "data").mkdir()
    (tmp_path / "repo" / "data" / "registry.db").touch()
    write_repository(tmp_path / "repo", tmp_path / "export", ttl_days=0)
    assert (tmp_path / "repo" / "data" / "registry.db").exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "feature_store.py").write_text("mine = 1\n")
    with pytest.raises(CaptionaryError, match="must be absent, or written by captionary export-features"):
        write_repository(tmp_path / "theirs", tmp_path / "export")
    assert not (tmp_path / "theirs" / "feature_store.yaml").exists()


@pytest.mark.parametrize(
    ("folder", "changes", "said"),
    [
        ("repo", {"project": "_shop"}, "project == _shop, must be ASCII letters"),
        ("repo", {"ttl_days": -1.0}, "ttl_days == -1.0, must be >= 0"),
        ("export/repo", {}, "must be outside the export"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, folder: str, changes: dict[str, Any], said: str) -> None:
    export_features(tmp_path / "export", source())
    with pytest.raises(CaptionaryError, match=said):
        write_repository(tmp_path / folder, tmp_path / "export", **changes)
    with pytest.raises(CaptionaryError, match="must be readable Parquet"):
        write_repository(tmp_path / "repo", tmp_path / "nowhere")
