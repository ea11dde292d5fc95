"""experiments.yaml: what it may say, and how its mistakes are told."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from captionary.errors import CaptionaryError
from captionary.online.experiments.settings import load_experiments, moment

GOOD = """
salt: shop
holdout: 0.02
layers:
  - name: ranking
    holdout: 0.01
    experiments:
      - name: captions
        range: [0, 6000]
        arms: [{name: ids, share: 0.5}, {name: joint, share: 0.5}]
        ramp:
          - {at: 2026-03-02, share: 0.01}
          - {at: 2026-03-04T09:00:00+01:00, share: 1}
        forced: {7: joint}
        metrics:
          - {name: likes, of: like, role: primary}
          - {name: slow, of: slow_requests, per: requests, role: guardrail, better: less, margin: 0.05}
      - name: bpe
        range: [6000, 10000]
        arms: [{name: a, share: 0.9}, {name: b, share: 0.1}]
"""


def load(tmp_path: Path, text: str = GOOD):
    path = tmp_path / "experiments.yaml"
    path.write_text(text)
    return load_experiments(path)


def test_a_good_file(tmp_path: Path) -> None:
    found = load(tmp_path)
    layer, captions = found.find("captions")
    assert (layer.name, found.names) == ("ranking", ("captions", "bpe"))
    assert captions.forced == {"7": "joint"}
    assert captions.ramp[1].since == datetime(2026, 3, 4, 8, tzinfo=UTC)
    assert captions.primary().name == "likes"
    days = [datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 5)]
    assert [captions.joined_share(day) for day in days] == [0.0, 0.01, 1.0]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("salt: shop", "salt: shop2", False),
        ("share: 0.01}", "share: 0.02}", False),
        ("name: ranking", "name: order", False),  # what buckets are drawn with
        ("{7: joint}", "{8: joint}", False),
        ("margin: 0.05", "margin: 0.5", True),
        ("name: a, share: 0.9", "name: c, share: 0.9", True),  # of another experiment
    ],
)
def test_a_version_is_that_of_what_users_get(tmp_path: Path, old: str, new: str, same: bool) -> None:
    assert old in GOOD
    before, after = (
        load(tmp_path).version("captions"),
        load(tmp_path, GOOD.replace(old, new)).version("captions"),
    )
    assert (before == after) == same


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "range: [6000, 10000]",
            "range: [5000, 10000]",
            "apart from those of other experiments, so from 6000",
        ),
        ("range: [6000, 10000]", "range: [6000, 10001]", "first < end <= 10000"),
        ("{name: joint, share: 0.5}", "{name: joint, share: 0.6}", "1.1 together, must be 1 together"),
        ("{name: joint, share: 0.5}", "{name: ids, share: 0.5}", "ids, must be there once"),
        ("forced: {7: joint}", "forced: {7: jiont}", "joint .did you mean that.*forced: 7"),
        ("share: 1}", "share: 0.001}", "0.01 at least: who takes part stays in"),
        ("at: 2026-03-04T09:00:00+01:00", "at: 2026-03-01", "later than the step before"),
        ("at: 2026-03-04T09:00:00+01:00", "at: 2026-03-04T09:00:00", "with a time zone"),
        ("role: primary", "role: secondary", "primary metrics == none, must be exactly one"),
        ("holdout: 0.02", "holdout: 0.9", "0 to 0.5"),
        ("name: bpe", "name: captions", "captions, must be there once"),
        ("margin: 0.05", "margn: 0.05", "margin .did you mean that"),
        ("salt: shop\n", "", "salt == .absent., must be given"),
    ],
)
def test_mistakes_say_what_and_where(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(CaptionaryError, match=message) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert "experiments.yaml" in str(caught.value)


def test_moments() -> None:
    expected = datetime(2026, 3, 1, 23, tzinfo=UTC)
    assert moment("2026-03-02T00:00:00+01:00", "at") == expected
    assert moment(datetime(2026, 3, 2, tzinfo=timezone(timedelta(hours=1))), "at") == expected
    assert moment(date(2026, 3, 2), "at") == datetime(2026, 3, 2, tzinfo=UTC)
    with pytest.raises(CaptionaryError, match="a moment such as"):
        moment("yesterday", "at")
