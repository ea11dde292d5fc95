"""The pages in a real browser: nothing wider than a phone or a sheet of paper, a silent console, no request."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.evidence.test_sections import everything

from captionary.evidence.report import render
from captionary.evidence.result import Evidence
from captionary.evidence.side_by_side import side_by_side

WIDTHS = (320, 360, 1200)
PAPER = 688
"""Pixels between the margins of an A4 page."""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
    ),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# What reaches beyond the page's right edge, outside of what scrolls by itself.
MEASURE = """
addEventListener("load", () => {
  const said = [...document.querySelectorAll("iframe")].map(frame => {
    const root = frame.contentDocument.documentElement, wide = root.clientWidth;
    const out = [...root.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > wide + 0.5
      && !one.closest(frame.title.includes("paper") ? "pre, svg, .hidden"
        : ".scroll, pre, svg, .hidden, .stacks thead, details"));
    return `${frame.title}: ${root.scrollWidth <= wide ? "fits" : "overflows"} `
      + out.slice(0, 3).map(one => one.tagName + "." + one.className).join(" ");
  });
  document.body.append(Object.assign(document.createElement("pre"), {id: "said", textContent: said.join("\\n")}));
});
"""


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """(the page as it is once loaded, what its console said)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine to look at the page with")
    done = subprocess.run(
        [chromium, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_pages_fit_a_phone_and_paper_and_ask_for_nothing(evidence: Evidence, tmp_path: Path) -> None:
    pages = {
        "report": render(evidence, sections=everything()).replace("<details>", "<details open>"),
        "side by side": side_by_side(evidence, evidence).to_html(),
    }
    shown = {(name, str(width)): (page, width) for name, page in pages.items() for width in WIDTHS}
    # As the printer has it: its rules, and the width between its margins.
    printed = (
        pages["report"].replace("@media print", "@media all").replace("@media screen", "@media not screen")
    )
    shown["report", "paper"] = (printed, PAPER)
    frames = [
        f'<iframe title="{name} {kind}" width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
        for (name, kind), (page, width) in shown.items()
    ]
    # Frames of the parent's origin, which the parent may measure; the pages themselves stay without script.
    (tmp_path / "all.html").write_text(
        f"<!DOCTYPE html><meta charset=utf-8><script>{MEASURE}</script>{''.join(frames)}", encoding="utf-8"
    )
    dom, console = browse(tmp_path / "all.html", tmp_path / "profile")
    found = re.search(r'<pre id="said">(.*?)</pre>', dom, re.S)
    assert found is not None
    assert [line.strip() for line in found[1].split("\n")] == [f"{name} {kind}: fits" for name, kind in shown]
    # A page that asked for anything would break its own content policy, which the console says.
    assert console == []


def test_a_page_that_asks_for_something_or_errs_would_be_noticed(evidence: Evidence, tmp_path: Path) -> None:
    page = render(evidence).replace(
        "</main>", '<img src="http://127.0.0.1:9/x.png"><script>1</script></main>'
    )
    (tmp_path / "bad.html").write_text(page, encoding="utf-8")
    _, console = browse(tmp_path / "bad.html", tmp_path / "profile")
    assert len(console) >= 2
    assert all("Content Security Policy" in line for line in console)
