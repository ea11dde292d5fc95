import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_current() -> None:
    """A setting that is missing from the docs, or a default that has moved, fails here."""
    tool = load(ROOT / "tools" / "reference.py")
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run python tools/reference.py"
    assert all(said for _, file, name in tool.SECTIONS[2:] for *_, said in tool.fields(file, name))


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_readme_figures_come_from_the_result_file() -> None:
    """README's table is what benchmarks/readme.py makes of benchmarks/results/demo.json."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    figures = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    tool = load(ROOT / "benchmarks" / "readme.py")
    assert tool.with_table(text, figures) == text, "run python benchmarks/readme.py"
    public = json.loads((ROOT / "benchmarks" / "results" / "public.json").read_text())
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert tool.public_page(public) == page, "run python benchmarks/readme.py"
