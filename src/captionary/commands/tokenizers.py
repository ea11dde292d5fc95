"""`captionary tokenizers`: compare the tokenizers of the registry on your captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from captionary.represent.tokenizers import TokenizerConfig
    from captionary.settings import RunConfig

__all__ = ["tokenizers"]

_PATH = click.Path(path_type=Path)
_KINDS = ("concepts", "phrases", "wordpiece", "bpe", "unigram", "hash")


@click.group()
def tokenizers() -> None:
    """Compare tokenizers of captions."""


@tokenizers.command("compare")
@click.argument("source", metavar="CONFIG_OR_CAPTIONS", type=_PATH)
@click.option(
    "--tokenizer",
    "kinds",
    multiple=True,
    metavar="KIND",
    help="A kind, such as bpe or hf:FOLDER; repeatable. Default: all that need no download, and those of CONFIG.",
)
@click.option(
    "--out", type=_PATH, help="Folder of the results. Default: tokenizers/ in the run's folder, or here."
)
@click.option("--gain", is_flag=True, help="Also train the ranker of CONFIG with each: AUC and NE gain.")
@click.option(
    "--later", type=float, default=0.2, show_default=True, help="Share of captions that come after."
)
@click.option("--slices", type=int, default=8, show_default=True, help="Time slices of the drift.")
def compare(
    source: Path, kinds: tuple[str, ...], out: Path | None, gain: bool, later: float, slices: int
) -> None:
    """Compare tokenizers on the captions of CONFIG, a run's YAML, or of a file of captions.

    A file is .csv, .parquet or .jsonl with a column `caption` (and `created_at`, where there is one), or .txt with one
    caption a line, in order of time. Prints a table; writes comparison.json, .md, .svg and .png.
    """
    import json

    from captionary.errors import bad_value
    from captionary.publish import atomic_folder
    from captionary.represent.compare import compare_tokenizers
    from captionary.represent.compare_plot import plot_comparison
    from captionary.settings import load_run

    config = load_run(source) if source.suffix in (".yaml", ".yml") else None
    if gain and config is None:
        raise bad_value("--gain", str(source), "asked of a run's YAML, which has a ranker")
    chosen = _chosen(kinds, config)
    captions, times = _of_file(source) if config is None else _of_run(config)
    compared = compare_tokenizers(captions, chosen, created_at=times, later=later, slices=slices)
    if gain and config is not None:
        from captionary.tokenizer_gain import tokenizer_gains

        compared = compared.with_gains(tokenizer_gains(config, chosen))
    folder = out or (Path("tokenizers") if config is None else config.folder / "tokenizers")
    with atomic_folder(folder) as partial:
        said = json.dumps(compared.to_dict(), indent=1, ensure_ascii=False)
        (partial / "comparison.json").write_text(said + "\n", encoding="utf-8")
        (partial / "comparison.md").write_text(compared.to_markdown() + "\n", encoding="utf-8")
        plot_comparison(compared, partial)
    click.echo(compared.to_markdown())
    click.echo(f"\n{folder}: comparison.json, .md, .svg, .png")


def _chosen(kinds: tuple[str, ...], config: RunConfig | None) -> list[TokenizerConfig]:
    """The tokenizers to compare: those asked for, or the run's own and one of each other kind."""
    from captionary.represent.tokenizers import TokenizerConfig

    if kinds:
        return [TokenizerConfig(kind=kind) for kind in dict.fromkeys(kinds)]
    own = list(config.tokenizers.values()) if config is not None else []
    return own + [TokenizerConfig(kind=kind) for kind in _KINDS if kind not in {one.kind for one in own}]


def _of_run(config: RunConfig) -> tuple[list[str], Any]:
    """The normalised captions of the run's items, made now where they are not there yet, and the items' times."""
    import pyarrow.parquet as pq

    from captionary.contract import open_dataset
    from captionary.pipeline import run

    run(config, last="caption")
    table = pq.read_table(config.folder / "captions" / "captions.parquet", columns=["item_id", "normalized"])
    items = open_dataset(config.data.path or config.folder / "data" / "world").items()
    return [line or "" for line in table["normalized"].to_pylist()], _times(items)


def _of_file(path: Path) -> tuple[list[str], Any]:
    """The captions of a file, normalised, and their times or None.

    Raises:
        CaptionaryError: no such file, another suffix, or no column `caption`.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    from captionary.errors import bad_value
    from captionary.represent.normalize import normalize

    readers = {".csv": pa.csv.read_csv, ".parquet": pa.parquet.read_table, ".jsonl": pa.json.read_json}
    if path.suffix != ".txt" and path.suffix not in readers:
        raise bad_value("captions", str(path), "a .yaml, .csv, .parquet, .jsonl or .txt file")
    try:
        if path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            return [normalize(line) for line in lines], None
        table = readers[path.suffix](path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        where = str(error).splitlines()[0]
        raise bad_value("captions", str(path), "a readable file of captions", where=where) from None
    if "caption" not in table.column_names:
        found = ", ".join(table.column_names)
        raise bad_value("columns", found, "with caption among them", where=str(path))
    captions = table["caption"].cast(pa.string()).to_pylist()
    return [normalize(caption or "") for caption in captions], _times(table)


def _times(table: Any) -> Any:
    """The column `created_at` as datetime64 [N], or None where there is none of times."""
    import numpy as np
    import pyarrow as pa

    if "created_at" not in table.column_names or not pa.types.is_temporal(table["created_at"].type):
        return None
    return table["created_at"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[us]").view(np.ndarray)
