"""A run of a tiny world whose every stage is the real one, but for the captioner."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.understand.fake import FakeCaptioner

from captionary.pipeline import run
from captionary.settings import load_run
from captionary.world.settings import WorldConfig


@contextmanager
def faked() -> Iterator[None]:
    """Captions come from a captioner without a model, whose encoder gives vectors of 8 numbers."""
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeCaptioner(vector_size=8)
        patch.setattr("captionary.understand.captioner.load_captioner", lambda *_: fake)
        yield


def write_config(root: Path, **changes: Any) -> Path:
    """The config of the run, whose folder is `root`/runs/tiny."""
    said = {
        "name": "tiny",
        "data": {"world": dataclasses.asdict(WorldConfig.tiny())},
        "runs": str(root / "runs"),
        "visual_dimensions": 4,
        "evidence": {"seeds": 1, "placebos": []},
        "ranker": {"epochs": 1},
        "workers": 1,
    }
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(said | changes, default=str))))
    return path


def make_run(root: Path) -> Path:
    """A run with trained rankers in `root`; its config."""
    path = write_config(root)
    with faked():
        run(load_run(path), "train")
    return path


def copy_run(config: Path, root: Path) -> Path:
    """The same run in another folder, for tests that change it; its config."""
    shutil.copytree(config.parent / "runs", root / "runs")
    return write_config(root)
