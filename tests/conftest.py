"""What tests of several packages share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run with trained rankers, made once; a test that changes it takes `copy_run` of it."""
    from tests.tiny_run import make_run  # which imports much

    return make_run(tmp_path_factory.mktemp("tiny"))
