from pathlib import Path

import pytest

from captionary.errors import CaptionaryError
from captionary.settings import RunConfig, load_run

CONFIGS = Path(__file__).parent.parent / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_load(path: Path) -> None:
    config = load_run(path)
    assert config.name == path.stem
    assert config.folder == Path("runs") / path.stem


def test_a_relative_data_path_counts_from_the_config(tmp_path: Path) -> None:
    config = load_run(write(tmp_path, "name: x\ndata: {path: here}"))
    assert config.data.path == tmp_path / "here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x", "data == (absent), must be given"),
        ("name: x\ndata: {}", "data == neither, must be one of path and world"),
        ("name: x\ndata: {path: a, world: {}}", "data == both"),
        ("name: x\ndata: {world: {sed: 1}}", "key == sed, must be seed (did you mean that?)"),
        ("name: a/b\ndata: {path: a}", "name == a/b, must be a plain folder name"),
        ("name: x\ndata: {world: {}}\nsplit: cold", "split == cold, must be time"),
        ("name: x\ndata: {path: a}\nworkers: 0", "workers == 0, must be >= 1"),
        ("name: x\ndata: {path: a}\nworkers: two", "workers == two, must be of type int"),
        ("name: x\ndata: {path: a}\ntokenizers: {}", "tokenizers == (empty)"),
        ("name: x\ndata: {path: a}\ntokenizers: {A: {kind: concept}}", "concepts (did you mean that?)"),
        ("name: x\ndata: {path: a}\nevidence: {placebos: [shufled]}", "shuffled (did you mean that?)"),
        ("name: x\ndata: {path: a}\nranker: {dropout: 1.5}", "dropout == 1.5"),
        ("name: [", "valid YAML"),
        ("- 1", "a mapping of keys"),
    ],
)
def test_a_bad_config_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CaptionaryError) as caught:
        load_run(write(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_first_tokenizer_is_a() -> None:
    defaults = RunConfig.__dataclass_fields__["tokenizers"].default_factory()  # type: ignore[misc]
    assert [chosen.kind for chosen in defaults.values()] == ["concepts", "wordpiece"]
    assert list(defaults) == ["A", "B"]
