"""The main job: data → captions → tokens → profiles → rankers → evidence, each a stage that is done once.

Figure 1 and 2 of the paper, end to end. Every stage is a folder of the run, addressed by the fingerprint of its
inputs, config and code, and invisible until complete; a killed run continues, a second run redoes nothing.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from captionary.config import to_mapping
from captionary.contract import Dataset, open_dataset
from captionary.errors import bad_value, nearest
from captionary.evidence.arms import Arms, default_arms
from captionary.represent.jagged import Jagged
from captionary.settings import RunConfig
from captionary.stages import Stage, code_version, fingerprint, locked, run_stage
from captionary.understand.captioner import fingerprint_of

__all__ = ["VERBS", "Stages", "placebo_key", "run", "split_of", "training_items"]

VERBS = ("caption", "tokenize", "profile", "train", "evidence", "run")
"""How far a run may go, in the order of the flow; `run` goes to the end, as `evidence` does."""


class Stages(NamedTuple):
    """The finished stages that a later one reads; None where it has not come to it."""

    config: RunConfig
    dataset: Dataset
    data: str
    """Fingerprint of the data set and of the media outside it."""
    captions: Stage | None = None
    tokens: Stage | None = None
    profiles: Stage | None = None
    rankers: Stage | None = None

    @property
    def holds_items_out(self) -> bool:
        """Whether the run's split holds items out, so that those it is measured on are new."""
        return self.dataset.spec.splits[split_of(self.config, self.dataset)].kind == "items"

    @property
    def arms(self) -> Arms:
        """The arms that can be compared with what there is."""
        assert self.captions is not None
        assert self.tokens is not None
        return default_arms(
            visual=bool(self.captions.facts["vectors"]),
            tokens=self.tokens.facts["letters"],
            profiles=self.tokens.facts["letters"][:1] if self.dataset.spec.event_types else [],
            placebos=self.config.evidence.placebos,
            on_visual=self.config.evidence.on_visual,
        )


def run(config: RunConfig, last: str = "run") -> None:
    """Do every stage up to `last` that is not done yet, and say what was found and what was made.

    Raises:
        CaptionaryError: a bad data set, a bad config, or another process at the same run.
    """
    if last not in VERBS:
        raise bad_value("last", last, nearest(last, VERBS))
    began = time.monotonic()
    dataset = None if config.data.path is None else open_dataset(config.data.path)
    if dataset is not None:
        split_of(config, dataset)
    with locked(config.folder):
        dataset = dataset or _world(config)
        split_of(config, dataset)
        stages = Stages(config, dataset, _data_fingerprint(dataset))
        fresh = []
        works: dict[str, tuple[str, Callable[[Stages], Stage]]] = {
            "caption": ("captions", _caption),
            "tokenize": ("tokens", _tokenize),
            "profile": ("profiles", _profile),
            "train": ("rankers", _train),
            "evidence": ("report", _evidence),
        }
        for verb, (name, work) in works.items():
            done = work(stages)
            _say(verb, done)
            fresh += [verb] if done.fresh else []
            if name in Stages._fields:
                stages = stages._replace(**{name: done})  # type: ignore[arg-type]
            if verb == last:
                break
        if not fresh:
            click.echo("nothing to do: every stage is up to date")
        if last in ("run", "evidence"):
            from captionary.evidence.result import Evidence
            from captionary.evidence.tables import print_tables

            found = config.folder / "report"
            click.echo()
            click.echo(
                print_tables(Evidence.from_json((found / "evidence.json").read_text(encoding="utf-8")))
            )
            click.echo(f"\nreport: {found / 'index.html'}  ({time.monotonic() - began:.0f} s)")


def split_of(config: RunConfig, dataset: Dataset) -> str:
    """Name of the split that the run uses.

    Raises:
        CaptionaryError: the data set has no such split.
    """
    name = config.split or dataset.spec.default_split
    if name not in dataset.spec.splits:
        raise bad_value("split", name, nearest(name, dataset.spec.splits), where=str(dataset.root))
    return name


def training_items(config: RunConfig, dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Which items [I] occur in training impressions: what vocabularies and projections may be fitted on."""
    return _items_of(config, dataset, "train")


def placebo_key(letter: str, kind: str, seed: int) -> str:
    """The key of one draw of a placebo's tokens and profiles: that of its arm, and the seed that is trained on it."""
    return f"{letter}:{kind}" if kind == "constant" else f"{letter}:{kind}:{seed}"


def _items_of(config: RunConfig, dataset: Dataset, part: str) -> npt.NDArray[np.bool_]:
    import pyarrow.compute as pc

    column = dataset.spec.splits[split_of(config, dataset)].column
    impressions = dataset.impressions(["item_id", column])
    seen = pc.unique(impressions.filter(pc.equal(impressions[column], part))["item_id"])
    found = pc.is_in(dataset.items(["item_id"])["item_id"], value_set=seen)
    return np.asarray(found.combine_chunks().to_numpy(zero_copy_only=False))


def _world(config: RunConfig) -> Dataset:
    from captionary.world.market import make_world

    world = config.data.world
    assert world is not None
    expected = fingerprint(world=to_mapping(world), code=code_version("world", "contract.py"))
    folder = config.folder / "data"
    done = run_stage(config.folder / "data", expected, lambda out: _make_world(make_world, world, out))
    _say("data", done)
    return open_dataset(folder / "world")


def _make_world(make: Callable[..., Path], world: Any, out: Path) -> dict[str, Any]:
    dataset = open_dataset(make(world, out / "world", progress=sys.stderr.isatty()))
    return {
        "items": dataset.items(["item_id"]).num_rows,
        "impressions": dataset.impressions(["user_id"]).num_rows,
    }


def _data_fingerprint(dataset: Dataset) -> str:
    """The data set's own, and size and time of media files outside of it, whose bytes it does not cover."""
    outside = []
    for entries in dataset.items(["media"])["media"].to_pylist():
        for uri in (entries or [])[:1]:
            path = dataset.media_path(uri) if uri else None
            if path is not None and not path.is_relative_to(dataset.root):
                stat = path.stat() if path.exists() else None
                outside.append((uri, stat and stat.st_size, stat and stat.st_mtime_ns))
    return fingerprint(dataset=dataset.fingerprint(), outside=outside)


def _caption(stages: Stages) -> Stage:
    config, dataset = stages.config, stages.dataset
    base = config.data.path or Path()
    expected = fingerprint(
        data=stages.data,
        captioner=fingerprint_of(config.captioner, base),
        code=code_version(
            "understand/caption.py", "understand/job.py", "understand/media.py", "represent/normalize.py"
        ),
    )

    def work(out: Path) -> Mapping[str, Any]:
        from captionary.represent.normalize import normalize
        from captionary.understand.caption import caption_items
        from captionary.understand.captioner import NoCaptioner, load_captioner
        from captionary.understand.store import CaptionStore

        items = dataset.items()
        anything = any(entries for entries in items["media"].to_pylist())
        # A data set without media needs no model: every item is skipped with its reason.
        imported = config.captioner.source.startswith("import:")
        captioner = load_captioner(config.captioner, base) if anything or imported else NoCaptioner()
        with CaptionStore(config.runs / "captions.sqlite") as store:
            report = caption_items(
                items, dataset.root, captioner, store, batch_size=config.captioner.batch_size, progress=True
            )
        click.echo(report.to_string(), err=True)
        captions = report.captions["caption"].to_pylist()
        normalized = [None if caption is None else normalize(caption) for caption in captions]
        table = report.captions.append_column("normalized", pa.array(normalized, pa.string()))
        pq.write_table(table, out / "captions.parquet")
        np.savez(out / "vectors.npz", vectors=report.vectors.astype(np.float16), present=report.has_vector)
        told = sum(report.captions.column("status").to_numpy() == "ok")
        seconds = report.seconds
        return {
            "captioner": captioner.name,
            "fingerprint": captioner.fingerprint,
            "ok": int(told),
            "vectors": int(report.has_vector.sum()) if report.vectors.shape[1] else 0,
            **report.to_dict(),
            "images_per_second": round(report.new / seconds, 2) if report.new else None,
        }

    # What failed for the captioner's sake, not the picture's, is worth another try.
    return run_stage(
        config.folder / "captions",
        expected,
        work,
        again=lambda done: "captioner_error" in done.facts["failed"],
    )


def _tokenize(stages: Stages) -> Stage:
    config, dataset, captions = stages.config, stages.dataset, stages.captions
    assert captions is not None
    expected = fingerprint(
        captions=captions.fingerprint,
        split=split_of(config, dataset),
        tokenizers={letter: to_mapping(chosen) for letter, chosen in config.tokenizers.items()},
        code=code_version("represent"),
    )

    def work(out: Path) -> Mapping[str, Any]:
        from captionary.represent.tables import write_item_tokens
        from captionary.represent.tokenizers import make_tokenizer

        table = pq.read_table(captions.folder / "captions.parquet", columns=["item_id", "normalized"])
        lines = [line or "" for line in table["normalized"].to_pylist()]
        known = training_items(config, dataset)
        corpus = [line for line, seen in zip(lines, known, strict=True) if seen and line]
        facts: dict[str, Any] = {"letters": [], "tokenizers": {}}
        for letter, chosen in config.tokenizers.items() if corpus else ():
            tokenizer = make_tokenizer(chosen).fit(corpus)
            tokenizer.save(out / letter)
            tokens = tokenizer.encode(lines)
            write_item_tokens(out / letter / "item_tokens.parquet", table["item_id"], tokens)
            facts["letters"].append(letter)
            facts["tokenizers"][letter] = {
                "kind": tokenizer.kind,
                "vocabulary": len(tokenizer.vocabulary),
                "fingerprint": tokenizer.fingerprint(),
                "tokens_per_item": round(float(tokens.lengths[tokens.lengths > 0].mean()), 2),
            }
        return facts

    return run_stage(config.folder / "tokens", expected, work)


def _profile(stages: Stages) -> Stage:
    config, dataset, tokens = stages.config, stages.dataset, stages.tokens
    assert tokens is not None
    expected = fingerprint(
        data=stages.data,
        split=split_of(config, dataset),
        tokens=tokens.fingerprint,
        profiles=to_mapping(config.profiles),
        placebos=[*config.evidence.placebos, config.evidence.seed, config.evidence.seeds],
        code=code_version("represent", "evidence/placebo.py"),
    )

    def work(out: Path) -> Mapping[str, Any]:
        from captionary.assemble import item_tokens, profile_folder
        from captionary.represent.profiles import build_profiles
        from captionary.represent.tables import write_profiles

        events, impressions = _events(stages), dataset.impressions(["impression_id", "user_id", "timestamp"])
        items = dataset.items(["item_id"])["item_id"]
        # Only the data set's own event types: others in the log are not profiled.
        chosen = dataclasses.replace(
            config.profiles, event_types=config.profiles.event_types or dataset.spec.event_types
        )
        began = time.monotonic()
        keys = [*tokens.facts["letters"][:1]]
        # Each seed has its own draw of a placebo, so that one lucky deal cannot pass for a feature.
        keys += [
            placebo_key(letter, kind, seed)
            for letter in keys
            for kind in config.evidence.placebos
            for seed in range(config.evidence.seeds if kind != "constant" else 1)
        ]
        for key in keys:
            listed, idf = item_tokens(stages, key)
            built = build_profiles(events, impressions, items, listed, chosen, idf)
            write_profiles(profile_folder(out, key), impressions["impression_id"], built)
        if not keys:  # no captions: the activity alone, which every arm is given
            nothing = Jagged(np.empty(0, np.int32), np.zeros(len(items) + 1, np.int64))
            built = build_profiles(events, impressions, items, nothing, chosen, np.ones(1, np.float32))
            write_profiles(out / "activity", impressions["impression_id"], built)
        seconds = time.monotonic() - began
        return {"keys": keys, "events": events.num_rows, "seconds": round(seconds, 2)}

    return run_stage(config.folder / "profiles", expected, work)


def _events(stages: Stages) -> pa.Table:
    """The events that profiles may see: all but those of held-out items."""
    import pyarrow.compute as pc

    dataset = stages.dataset
    events = dataset.events()
    if not stages.holds_items_out:
        return events
    held_out = _items_of(stages.config, dataset, "eval")
    items = dataset.items(["item_id"])["item_id"]
    return events.filter(pc.invert(pc.is_in(events["item_id"], value_set=items.filter(pa.array(held_out)))))


def _train(stages: Stages) -> Stage:
    from captionary.training import train_arms

    return train_arms(stages)


def _evidence(stages: Stages) -> Stage:
    config, rankers = stages.config, stages.rankers
    assert rankers is not None
    expected = fingerprint(
        rankers=rankers.fingerprint,
        name=config.name,
        evidence=to_mapping(config.evidence),
        code=code_version("evidence", "assemble.py", "reporting.py"),
    )

    def work(out: Path) -> Mapping[str, Any]:
        from captionary.reporting import write_evidence

        return write_evidence(stages, out)

    return run_stage(config.folder / "report", expected, work)


def _say(verb: str, stage: Stage) -> None:
    done = f"{stage.seconds:6.1f} s" if stage.fresh else "up to date"
    click.echo(f"{verb:>9}  {done}  {stage.folder}", err=True)
