import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from captionary.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = pytest.mark.parametrize(
    "path", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.name
)


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


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@PAGES
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            page = path.parent / name if name else path
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), target


def commands(text: str) -> Iterator[str]:
    """What follows `captionary` in blocks of code and between backticks."""
    for block in re.findall(r"```.*?```|(?:^ {4}.*\n)+", text, re.DOTALL | re.MULTILINE):
        yield from re.findall(r"(?:^|[\s/])captionary ([^\n#`]+)", re.sub(r"\\\n\s*", "", block))
    for inline in re.findall(r"`captionary ([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield inline.replace("\\|", "|")


def refused(line: str) -> str:
    """The first verb or option that the command line does not have; "" where it has them all."""
    words = re.sub(r"[\[\],]", " ", line).split()  # the brackets of what may be left out
    group: click.Group = cli
    command: click.Command = cli
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in ("|", "&", "&&", ";", ">"):  # another verb of the group, or another program
            if word != "|" or after not in group.commands:
                return ""
            command = group
        elif word.startswith("--"):
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            if word.partition("=")[0] not in known | {"--help"}:
                return word
        elif isinstance(command, click.Group):
            if word not in command.commands:
                return word
            group, command = command, command.commands[word]
    return ""


@PAGES
def test_commands_that_are_shown_are_taken(path: Path) -> None:
    for shown in commands(path.read_text(encoding="utf-8")):
        assert refused(shown) == "", shown


def test_what_the_other_test_would_notice() -> None:
    for right in ("captions export STORE FILE --no-vectors", "captions stats | forget", "ab plan | less"):
        assert refused(right) == ""
    for wrong in ("caption X --forced", "captoin X", "captions purge", "captions stats | forget --all"):
        assert refused(wrong) != ""


def test_every_verb_is_on_the_page_about_running() -> None:
    page = "\n".join(commands((ROOT / "docs" / "running.md").read_text(encoding="utf-8")))
    for name, command in cli.commands.items():
        said = " ".join(line for line in page.splitlines() if line.split()[0] == name).split()
        for verb in (name, *getattr(command, "commands", ())):
            assert verb in said, f"{name} {verb}"


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
