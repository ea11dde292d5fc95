import re
from pathlib import Path

import captionary.online.explorer
from captionary.evidence.palette import palette
from captionary.evidence.report import style
from captionary.online.explorer.pages import content_of

TEMPLATES = Path(captionary.online.explorer.__file__).parent / "templates"
SET = r"(--[a-z-]+): "


def test_colours_and_type_are_those_of_the_report():
    for sheet in (style(), content_of("explorer.css")[0].decode()):
        assert sheet.startswith(palette())
        assert re.findall(SET, sheet) == re.findall(SET, palette())  # none is set anew
        assert set(re.findall(r"var\((--[a-z-]+)", sheet)) <= set(re.findall(SET, palette()))


def test_nothing_in_the_templates_needs_what_the_policy_forbids():
    assert "url(" not in palette()
    for path in TEMPLATES.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".j2":
            assert not re.search(r"\sstyle=|\son[a-z]+=|\|safe|javascript:|autoescape", text), path.name
            for script in re.findall(r"<script[^>]*>", text):
                assert "asset(" in script
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert "@import" not in text
        assert "url(" not in text
