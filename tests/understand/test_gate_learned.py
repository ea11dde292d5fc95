from pathlib import Path

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.understand.gate import GateContext
from captionary.understand.gate_forecast import Exposure
from captionary.understand.gate_learned import FEATURES, GateModel, fit_gate, gate_features
from captionary.understand.gate_lookalike import Neighbours


def context(size: int = 300, cutoff: int = 10) -> GateContext:
    rng = np.random.default_rng(1)
    past = rng.poisson(20, size).astype(float)
    exposure = Exposure(past, past / 2, past, past == 0)
    likeness = Neighbours(
        np.arange(size + 1), np.roll(np.arange(size), 1), rng.random(size).astype(np.float32)
    )
    said, age = rng.random(size), rng.uniform(0, 30, size)
    age[:5] = np.nan
    return GateContext(
        cutoff,
        exposure,
        np.arange(size),
        np.zeros(size, bool),
        np.ones(size),
        np.zeros(size),
        said,
        age,
        likeness,
    )


def impressions(made: GateContext, effect: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """20 impressions an item, whose loss a caption lowers by effect · (1 − said) and noise."""
    item = np.repeat(np.arange(len(made.said)), 20)
    rng = np.random.default_rng(2)
    return item, effect * (1 - made.said[item]) + noise * rng.normal(size=len(item))


def test_it_finds_what_lowers_the_loss() -> None:
    made = context()
    model = fit_gate(made, *impressions(made, 0.1, 0.05), until=20)
    assert np.corrcoef(model.predict(made), 1 - made.said)[0, 1] > 0.95
    assert model.explained > 0.5
    assert model.bias == pytest.approx(0.05, abs=0.005)
    assert (model.items, model.impressions, model.cutoff) == (300, 6000, 20)


def test_where_nothing_can_be_foretold_it_says_the_mean() -> None:
    made = context()
    item, reduction = impressions(made, 0.0, 1.0)
    model = fit_gate(made, item, reduction, until=20)
    assert np.ptp(model.predict(made)) < 0.05
    assert model.explained < 0.02


def test_items_weigh_as_their_impressions() -> None:
    made = context()
    model = fit_gate(made, np.array([0] * 9 + [1]), np.array([1.0] * 9 + [0.0]), until=20)
    # Two items cannot be told from their mean out of fold: 0.9.
    assert model.bias == pytest.approx(0.9, abs=0.2)


def test_the_future_is_refused() -> None:
    made = context(cutoff=30)
    with pytest.raises(CaptionaryError, match="the future leaks"):
        fit_gate(made, *impressions(made, 0.1, 0.05), until=20)
    with pytest.raises(CaptionaryError, match="finite"):
        fit_gate(context(), np.array([0]), np.array([np.nan]), until=20)
    with pytest.raises(CaptionaryError, match="held-out impressions"):
        fit_gate(context(), np.array([0]), np.array([]), until=20)


def test_features_are_finite_and_named() -> None:
    found = gate_features(context())
    assert found.shape == (300, len(FEATURES))
    assert np.isfinite(found).all()
    assert found[:5, FEATURES.index("age not known")].all()


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    made = context()
    model = fit_gate(made, *impressions(made, 0.1, 0.05), until=20)
    assert GateModel.load(model.save(tmp_path / "model.json")) == model
    (tmp_path / "other.json").write_text('{"format": "else"}')
    for name in ("other.json", "absent.json"):
        with pytest.raises(CaptionaryError, match="captionary gate fit"):
            GateModel.load(tmp_path / name)
