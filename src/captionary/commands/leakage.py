"""`captionary check --leakage`: can a profile of this data set see the future?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from captionary.errors import CaptionaryError, bad_value

if TYPE_CHECKING:
    from captionary.represent.leakage import LeakageReport

__all__ = ["check_leakage", "leakage"]

_PATH = click.Path(path_type=Path)


def check_leakage(
    dataset: Path, config: Path | None = None, profiles: Path | None = None, tokens: Path | None = None
) -> LeakageReport:
    """Every leakage test that can be done with what is at hand.

    Args:
        dataset: a directory in the data contract.
        config: a run's YAML, for its half-lives and caps; None: the defaults.
        profiles: a folder of finished profiles, made by us or in our layout by anybody; needs `tokens`.
        tokens: an item_tokens.parquet; None: each item is taken for a token of its own.

    Raises:
        CaptionaryError: files that are not there or do not fit together.
    """
    import dataclasses

    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from captionary.contract import open_dataset
    from captionary.represent.jagged import Jagged
    from captionary.represent.leakage import LeakageReport, check_profiles, check_tables, probe
    from captionary.represent.profiles import ProfileConfig, Profiles, build_profiles
    from captionary.represent.tables import read_item_tokens, read_profiles

    if profiles is not None and tokens is None:
        raise bad_value("--tokens", "(absent)", "the item tokens that the profiles were made of")
    data = open_dataset(dataset)
    chosen = ProfileConfig()
    if config is not None:
        from captionary.settings import load_run

        chosen = load_run(config).profiles
    types = chosen.event_types or data.spec.event_types
    chosen = dataclasses.replace(chosen, event_types=types)
    events, impressions = data.events(), data.impressions()
    if tokens is not None:
        item_ids, lists = read_item_tokens(tokens)
    else:
        item_ids = data.items(["item_id"])["item_id"].combine_chunks()
        lists = Jagged(np.arange(len(item_ids), dtype=np.int32), np.arange(len(item_ids) + 1, dtype=np.int64))
    names = [task.name for task in data.spec.tasks]
    labels = data.labels(impressions)
    answered = {name: labels[:, names.index(name)] for name in types if name in names}

    def build(log: pa.Table, reads: pa.Table) -> dict[str, Profiles]:
        return build_profiles(log, reads, item_ids, lists, chosen, types=types)

    answers = ", ".join(answered) or "no task is named as an event type is"
    asked = [
        "whether taking events away, or shuffling them, changes a list as of an earlier moment (our builder)",
        f"whether tables hold ties, a coarse clock, or answers before their impression ({answers})",
    ]
    findings = [*probe(build, events, impressions), *check_tables(events, impressions, answered)]
    if profiles is not None:
        keys, made = read_profiles(profiles)
        place = pc.index_in(keys, value_set=impressions["impression_id"].combine_chunks())
        if place.null_count or len(keys) != len(pc.unique(keys)):
            raise bad_value(
                "impression_id", "ids unknown or repeated", "those of the data set", where=str(profiles)
            )
        reads = impressions.take(place)
        findings += check_profiles(made, events, reads, item_ids, lists)
        asked.append(
            f"whether lists in {profiles} hold tokens that no strictly earlier event brings (any recipe)"
        )
    return LeakageReport(tuple(asked), tuple(findings))


@click.command()
@click.argument("dataset", type=_PATH)
@click.option("--config", type=_PATH, help="A run's YAML: its half-lives and caps are used.")
@click.option("--profiles", type=_PATH, help="A folder of finished profiles in our layout, made by anybody.")
@click.option("--tokens", type=_PATH, help="The item_tokens.parquet that they were made of.")
def leakage(dataset: Path, config: Path | None, profiles: Path | None, tokens: Path | None) -> None:
    """Test whether profiles of DATASET can see the future; a proven leak is an error."""
    report = check_leakage(dataset, config, profiles, tokens)
    click.echo(report.to_string())
    if report.leaks:
        raise CaptionaryError(f"leaks == {report.leaks}, must be 0; {profiles or dataset}")
    click.echo(f"{dataset}: no leak found")
