"""The page stands alone, says the verdict first, shows data as data, and appears whole."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionary.errors import CaptionaryError
from captionary.evidence.cards import ItemCard, ProfileCard
from captionary.evidence.report import render, write_report
from captionary.evidence.result import Evidence

VOID = {"meta", "img", "link", "br", "hr", "input"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((90, 120, 3), 130, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


ITEMS = [
    ItemCard("7", "Sofa", picture(), "a picture of a dog .", "a dog", {"A": ("dog",), "B": ("do", "##g")}),
    ItemCard("8", EVIL, None, EVIL, EVIL, {"A": (EVIL,)}),
    ItemCard("9", "", b"broken", status="failed", reason="media: cannot identify image file"),
]
PROFILES = [
    ProfileCard(
        "u1", {"like": (("dog", 0.6), (EVIL, 0.15)), "share": ()}, "day 12", {"like": 8.25}, "Next: liked."
    ),
]


@pytest.fixture(scope="module")
def page(evidence: Evidence) -> Page:
    return Page(render(evidence, ITEMS, PROFILES))


def test_every_tag_is_closed(page: Page) -> None:
    assert page.open == []


def test_nothing_is_fetched_and_nothing_runs(evidence: Evidence, page: Page) -> None:
    html = render(evidence, ITEMS, PROFILES)
    assert not {"script", "link", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.tags}
    loads = [
        value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")
    ]
    assert loads
    assert all(value.startswith("data:image/jpeg;base64,") for value in loads)
    assert not re.search(r"https?://|@import|url\(", html)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_captions_are_data(evidence: Evidence, page: Page) -> None:
    assert EVIL in page.text
    assert "<script" not in render(evidence, ITEMS, PROFILES)


def test_names_from_the_run_are_data(concluded: Callable, simulation: Callable) -> None:
    made = concluded(simulation(rows=600, users=60), name=EVIL, source=EVIL, config={"k": EVIL}, command=EVIL)
    html = render(made)
    assert "<script" not in html
    assert "<img" not in html


def test_the_verdict_comes_first(evidence: Evidence, page: Page) -> None:
    text = " ".join(page.text.split())
    first = text.index("Captions help: the joint arm cuts")
    assert first < text.index("None of 3 placebos does") < text.index("Table 1") < text.index("Table 2")
    assert ("h1", {"class": "gain"}) in page.tags


def test_the_page_shows_arms_oracle_captions_items_profiles_and_provenance(
    evidence: Evidence, page: Page
) -> None:
    for words in (
        *(arm.name for arm in evidence.arms),
        "MM-LLM User Interest Profile Features",
        "oracle",
        "3,977",
        "media: file not found",
        "“a picture of a dog .”",
        "##g",
        "failed: media: cannot identify image file",
        "no picture",
        "as of day 12",
        "8.2 decayed events",
        "nothing yet",
        "Next: liked.",
        "CC BY-SA 4.0 (OpenMoji)",
        "b1946ac92492d234",
        '"semantic_strength": 1.0',
    ):
        assert words in page.text, words


def test_the_heavier_word_is_larger(page: Page) -> None:
    sizes = {attrs["title"]: attrs["style"] for tag, attrs in page.tags if tag == "span" and "title" in attrs}
    assert sizes == {
        "60.0 %": "font-size:1.60rem",
        "15.0 %": f"font-size:{0.8 + 0.8 * (0.15 / 0.6) ** 0.5:.2f}rem",
    }


def test_plots_have_titles(page: Page) -> None:
    drawn = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("aria-hidden") != "true"]
    titles = [tag for tag, _ in page.tags if tag == "title"]
    assert len(drawn) == 8 + 5 + 5 + 1  # forest, Table 2, ceiling, captions
    assert len(titles) == len(drawn) + 1  # and that of the page


@pytest.mark.parametrize("kept", [2, 1])
def test_a_run_without_captions_has_a_page(evidence: Evidence, kept: int) -> None:
    bare = dataclasses.replace(
        evidence,
        arms=evidence.arms[:kept],
        baseline=evidence.arms[kept - 1].name,
        headline=None,
        oracle=None,
        captions=None,
        against_placebos=(),
        left_out=("No captions: there is no arm.",),
    )
    page = Page(render(bare))
    assert "No captions: there is no arm." in page.text
    assert "Table 1" in page.text
    assert "Table 2" not in page.text


def test_unknown_figures_are_dashes(concluded: Callable, simulation: Callable) -> None:
    rows = simulation(rows=600, users=60, seeds=1)
    rows.labels[:, 0] = 0
    page = Page(render(concluded(rows)))
    assert "Task comment has one class only in the evaluation rows" in page.text
    assert not re.search(r"\b(nan|None)\b(?! of)", page.text)


def test_three_files_are_written_and_nothing_else(evidence: Evidence, tmp_path: Path) -> None:
    files = write_report(evidence, tmp_path / "runs" / "demo" / "report", ITEMS, PROFILES)
    assert sorted(path.name for path in files.page.parent.iterdir()) == [
        "evidence.json",
        "index.html",
        "report.md",
    ]
    assert Evidence.from_json(files.evidence.read_text(encoding="utf-8")) == evidence
    assert files.markdown.read_text(encoding="utf-8") == evidence.to_markdown()
    assert files.page.stat().st_size < 200_000
    assert files.page.stat().st_mode & 0o044


def test_a_file_that_cannot_be_finished_leaves_the_old_one(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_report(evidence, tmp_path)
    before = files.evidence.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    newer = dataclasses.replace(evidence, verdict="Other.")
    with pytest.raises(CaptionaryError, match=r"report folder == .*No space left on device"):
        write_report(newer, tmp_path)
    assert files.evidence.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_is_a_file_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("")
    with pytest.raises(CaptionaryError, match="must be a folder to write to"):
        write_report(evidence, tmp_path / "report")
