"""The command line: one verb a stage, and `run` for all of them. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from captionary import __version__
from captionary.commands.ab import ab
from captionary.commands.adapt import adapt
from captionary.commands.captioner import captioner
from captionary.commands.captions import captions
from captionary.commands.export import export
from captionary.commands.export_features import export_features
from captionary.commands.fit import fit
from captionary.commands.gate import gate
from captionary.commands.ingest import ingest
from captionary.commands.leakage import leakage as test_leakage
from captionary.commands.pretrain import pretrain
from captionary.commands.prompts import prompts
from captionary.commands.report import report
from captionary.commands.serve import keys, serve
from captionary.commands.shards import shards
from captionary.commands.sounds import sounds
from captionary.commands.tokenizers import tokenizers
from captionary.commands.train_backend import checkpoint, train
from captionary.commands.tune import tune
from captionary.commands.vectors import vectors
from captionary.commands.verify import verify
from captionary.errors import CaptionaryError, bad_value, nearest

__all__ = ["main"]

_PATH = click.Path(path_type=Path)
_ENGINE = click.option(
    "--engine", type=click.Choice(["local", "ray"]), help="Where it runs; default: as the config says."
)


class _Verbs(click.Group):
    """Says the nearest verb for one that is not there."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise bad_value("verb", args[0], nearest(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """From a catalogue's media and an event log to a ranker with caption features and an honest report."""


def _stage_verb(name: str, help_: str) -> None:
    @cli.command(name, help=help_)
    @click.argument("config", type=_PATH)
    def verb(config: Path) -> None:
        _run(config, name)


def _run(
    config: Path, last: str, *, force: bool = False, only_missing: bool = False, engine: str | None = None
) -> None:
    import dataclasses

    from captionary.pipeline import run
    from captionary.settings import load_run

    chosen = load_run(config)
    if engine is not None:
        chosen = dataclasses.replace(chosen, engine=dataclasses.replace(chosen.engine, kind=engine))  # type: ignore[arg-type]
    run(chosen, last=last, force=force, only_missing=only_missing)


@cli.command("caption")
@click.argument("config", type=_PATH)
@click.option("--force", is_flag=True, help="Caption again what has a caption already.")
@click.option("--only-missing", is_flag=True, help="Take other captioners' captions where there are some.")
@_ENGINE
def caption(config: Path, force: bool, only_missing: bool, engine: str | None) -> None:
    """Caption the items of CONFIG's data set; nothing is captioned twice."""
    _run(config, "caption", force=force, only_missing=only_missing, engine=engine)


@cli.command("profile")
@click.argument("config", type=_PATH)
@_ENGINE
def profile(config: Path, engine: str | None) -> None:
    """Build the users' profiles, point in time, for every impression of CONFIG."""
    _run(config, "profile", engine=engine)


_stage_verb("tokenize", "Turn CONFIG's captions into token-id lists, with every tokenizer.")
_stage_verb("evidence", "Compare the arms of CONFIG and write the report.")
_stage_verb("run", "The whole of CONFIG, from media to report; what has been done is not done again.")


@cli.command()
@click.argument("dataset", type=_PATH)
@click.option("--leakage", is_flag=True, help="Also test that no profile sees the future.")
@click.option("--config", type=_PATH, help="leakage: a run's config, for its profiles' settings.")
@click.option("--profiles", type=_PATH, help="leakage: a folder of profiles in our layout, to test those.")
@click.option("--tokens", type=_PATH, help="leakage: the item_tokens.parquet that they were made of.")
@click.pass_context
def check(
    context: click.Context,
    dataset: Path,
    leakage: bool,
    config: Path | None,
    profiles: Path | None,
    tokens: Path | None,
) -> None:
    """Check DATASET, a directory in the data contract, and list every violation."""
    from captionary.contract import check_dataset

    found = check_dataset(dataset)
    for violation in found:
        click.echo(violation)
    if found:
        raise CaptionaryError(f"violations == {len(found)}, must be 0; {dataset}")
    click.echo(f"{dataset}: the data contract holds")
    if leakage:
        context.invoke(test_leakage, dataset=dataset, config=config, profiles=profiles, tokens=tokens)


@cli.command()
@click.argument("name", metavar="ADAPTER")
@click.option("--from", "source", type=_PATH, help="Folder of the public data set (not for world).")
@click.option("--out", type=_PATH, required=True, help="Folder of the data set in the contract.")
@click.option("--seed", type=int, default=0, show_default=True, help="world: seed of everything.")
def data(name: str, source: Path | None, out: Path, seed: int) -> None:
    """Turn a public data set into the data contract, or simulate one.

    ADAPTER is movielens-posters, oasis, kuairand or world.
    """
    from captionary.data.registry import ADAPTERS, convert

    if name == "world":
        from captionary.world.market import make_world
        from captionary.world.settings import WorldConfig

        made = make_world(WorldConfig(seed=seed), out, progress=sys.stderr.isatty())
    elif name not in ADAPTERS:
        raise bad_value("adapter", name, nearest(name, [*ADAPTERS, "world"]))
    elif source is None:
        raise bad_value("--from", "(absent)", f"the folder of {name}")
    else:
        made = convert(name, source, out)
    click.echo(f"{made}: a data set in the contract; next: captionary run with `data: {{path: {made}}}`")


captioner.add_command(adapt)
captioner.add_command(pretrain)
for verb in (
    ab,
    captioner,
    captions,
    checkpoint,
    export,
    export_features,
    fit,
    gate,
    ingest,
    keys,
    prompts,
    report,
    serve,
    shards,
    sounds,
    tokenizers,
    train,
    tune,
    vectors,
    verify,
):
    cli.add_command(verb)


def _guarded(command: Callable[..., Any]) -> int:
    try:
        command(standalone_mode=False)
    except CaptionaryError as error:
        click.echo(f"captionary: {error}", err=True)
        return 2
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("captionary: interrupted; what was complete is kept, run again to go on", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"captionary: {where}{error.strerror}", err=True)
        return 2
    return 0


def main() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2, never a traceback."""
    sys.exit(_guarded(cli))
