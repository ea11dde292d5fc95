"""Adapters are found by name and imported only when used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from captionary.data.registry import ADAPTERS, convert
from captionary.errors import CaptionaryError


def test_every_adapter_has_a_function_and_a_documented_licence() -> None:
    for target in ADAPTERS.values():
        module, function = target.split(":")
        imported = importlib.import_module(module)
        assert callable(getattr(imported, function))
        for part in ("Source folder", "Licence:", "Decisions:"):
            assert part in (imported.__doc__ or "")


def test_an_unknown_adapter_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match=r"adapter == oassis, must be oasis \(did you mean that\?\)"):
        convert("oassis", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_source_without_its_files_is_refused_and_nothing_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(
        CaptionaryError, match=f"captionary data {name}: .*ratings.parquet|interactions.parquet"
    ):
        convert(name, tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_registry_imports_no_heavy_library() -> None:
    code = "import sys, captionary.data.registry; print({'polars', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
