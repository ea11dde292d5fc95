"""`captionary tokenizers compare --gain` on a tiny world: the stages are the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from tests.understand.fake import FakeCaptioner

from captionary.commands.tokenizers import tokenizers
from captionary.config import to_mapping
from captionary.errors import CaptionaryError
from captionary.evidence.result import Evidence
from captionary.settings import load_run
from captionary.tokenizer_gain import tokenizer_gains
from captionary.world.settings import WorldConfig


def test_each_tokenizer_gets_its_gain(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: nothing to plot with")
    said = {
        "name": "lab",
        "data": {"world": to_mapping(WorldConfig.tiny())},
        "runs": str(tmp_path / "runs"),
        "visual_dimensions": 4,
        "ranker": {"epochs": 1},
        "evidence": {"seeds": 1, "subsets": 4, "cards": 1, "placebos": []},
        "workers": 1,
    }
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(said))
    captioner = FakeCaptioner(vector_size=8)
    words = ["compare", str(tmp_path / "lab.yaml"), "--gain", "--tokenizer", "bpe", "--tokenizer", "hash"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captionary.understand.captioner.load_captioner", lambda *_: captioner)
        found = CliRunner().invoke(tokenizers, words, catch_exceptions=False)
    assert found.exit_code == 0
    assert "AUC gain" in found.output
    runs = tmp_path / "runs"
    rows = json.loads((runs / "lab" / "tokenizers" / "comparison.json").read_text())["rows"]
    evidence = Evidence.from_json(
        (runs / "lab-tokenizers" / "report" / "evidence.json").read_text(encoding="utf-8")
    )
    gains = {arm.name: arm.auc_gain for arm in evidence.arms}
    assert [row["name"] for row in rows] == ["bpe", "hash"]
    assert rows[0]["gain"]["auc_gain"] == gains["+visual+tokens(A)"]
    assert rows[1]["gain"]["auc_gain"] == gains["+visual+tokens(B)"]
    assert captioner.images <= 66  # the world's pictures, once: the second run found their captions
    with pytest.raises(CaptionaryError, match="tokenizers == 0, must be 1 to 26"):
        tokenizer_gains(load_run(tmp_path / "lab.yaml"), [])
