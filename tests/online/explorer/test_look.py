import re
from pathlib import Path

import captionary.evidence
import captionary.online.explorer

TEMPLATES = Path(captionary.online.explorer.__file__).parent / "templates"


def variables(path):
    return re.findall(r"(--[a-z-]+): ([^;]+);", path.read_text(encoding="utf-8"))


def test_colours_and_type_are_those_of_the_report():
    report = Path(captionary.evidence.__file__).parent / "templates" / "report.css"
    assert variables(TEMPLATES / "explorer.css") == variables(report)


def test_nothing_in_the_templates_needs_what_the_policy_forbids():
    for path in TEMPLATES.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".j2":
            assert not re.search(r"\sstyle=|\son[a-z]+=|\|safe|javascript:|autoescape", text), path.name
            for script in re.findall(r"<script[^>]*>", text):
                assert "asset(" in script
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert "@import" not in text
        assert "url(" not in text
