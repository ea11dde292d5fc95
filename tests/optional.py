"""Packages that some tests need: where one is missing they are skipped, unless CAPTIONARY_REQUIRE names it.

`make test` installs torchrec and sets CAPTIONARY_REQUIRE=torchrec, so that a broken installation fails there.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

__all__ = ["optional"]


def optional(name: str, reason: str) -> Any:
    """The module `name`; without it the test, or the file, is skipped for `reason`, or fails where it is required."""
    if name.partition(".")[0] in os.environ.get("CAPTIONARY_REQUIRE", "").split(","):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=reason)
