import subprocess
import sys
from pathlib import Path

import pytest

from captionary.cli import _guarded, cli

ROOT = Path(__file__).parent.parent


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = _guarded(lambda **options: cli(list(words), **options))
    out = capsys.readouterr()
    return code, out.out, out.err


def test_import_is_light() -> None:
    """Heavy packages wait for a verb: the import of the package and of its command line loads none."""
    probe = (
        "import sys, captionary, captionary.cli; "
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'polars', 'numpy', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("run", str(tmp_path / "absent.yaml"), capsys=capsys)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "absent.yaml" in err
    assert list(tmp_path.iterdir()) == []


def test_unknown_verbs_and_adapters_name_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "tokenize (did you mean that?)" in run("tokenise", "x", capsys=capsys)[2]
    code, _, err = run("data", "oassis", "--from", "x", "--out", str(tmp_path / "o"), capsys=capsys)
    assert code == 2
    assert "oasis (did you mean that?)" in err
    assert "--from == (absent)" in run("data", "oasis", "--out", str(tmp_path / "o"), capsys=capsys)[2]
    assert run("run", capsys=capsys)[0] == 2


def test_check_lists_every_violation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dataset.yaml").write_text("name: x\ntasks: []\nsplits: {}\ndefault_split: a\n")
    code, out, err = run("check", str(tmp_path), capsys=capsys)
    assert code == 2
    assert len(out.splitlines()) >= 4
    assert f"violations == {len(out.splitlines())}" in err


def test_a_bad_data_set_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("name: x\ndata: {path: absent}\n")
    assert run("run", "run.yaml", capsys=capsys)[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_interrupting_says_that_work_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    assert _guarded(interrupted) == 130
    assert "run again to go on" in capsys.readouterr().err


def test_every_verb_is_in_the_docs() -> None:
    words = "".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("docs/*.md"), ROOT / "README.md"]
    )
    for name in cli.commands:
        assert f"captionary {name}" in words, name
