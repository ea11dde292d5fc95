import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load(path: Path) -> ModuleType:
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # its neighbours, as when it is run
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
    for name, mark, shown in tool.PAGES:
        file = ROOT / "benchmarks" / "results" / f"{mark}.json"
        if file.exists():
            page = (ROOT / "docs" / name).read_text(encoding="utf-8")
            assert shown(json.loads(file.read_text())) in page, f"{name}: run python benchmarks/readme.py"


def test_public_results_come_from_the_result_file() -> None:
    """docs/results.md is what benchmarks/paper_tables.py makes of benchmarks/results/paper_tables.json."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "paper_tables.json").read_text())
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert load(ROOT / "benchmarks" / "paper_tables.py").page(figures) == page, (
        "see benchmarks/paper_tables.py"
    )
