"""The pages in a real browser: nothing wider than a phone, no console errors, nothing asked of the network."""

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

WIDTHS = (320, 1200)
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
      && !one.closest(".scroll, pre, svg, .hidden, .stacks thead, details"));
    return `${frame.title}: ${root.scrollWidth <= wide ? "fits" : "overflows"} `
      + out.slice(0, 3).map(one => one.tagName + "." + one.className).join(" ");
  });
  document.body.append(Object.assign(document.createElement("pre"), {id: "said", textContent: said.join("\\n")}));
});
"""


def test_pages_fit_a_phone_and_ask_for_nothing(evidence: Evidence, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine to look at the page with")
    pages = {
        "report": render(evidence, sections=everything()).replace("<details>", "<details open>"),
        "side by side": side_by_side(evidence, evidence).to_html(),
    }
    frames = [
        f'<iframe title="{name} {width}" width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
        for name, page in pages.items()
        for width in WIDTHS
    ]
    # Frames of the parent's origin, which the parent may measure; the pages themselves stay without script.
    (tmp_path / "all.html").write_text(
        f"<!DOCTYPE html><meta charset=utf-8><script>{MEASURE}</script>{''.join(frames)}", encoding="utf-8"
    )
    done = subprocess.run(
        [
            chromium,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "all.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr
    assert [line.strip() for line in found[1].split("\n")] == [
        f"{name} {width}: fits" for name in pages for width in WIDTHS
    ]
    # A page that asked for anything would break its own content policy, which the console says.
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
