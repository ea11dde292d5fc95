"""The main job: data → captions → tokens → profiles → rankers → evidence, each a stage that is done once.

Figure 1 and 2 of the paper, end to end. Every stage is a folder of the run, addressed by the fingerprint of its
inputs, config and code, and invisible until complete; a killed run continues, a second run redoes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
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
from captionary.evidence.arms import CAPTIONLESS, LISTS, Arms, default_arms
from captionary.represent.jagged import Jagged
from captionary.settings import RunConfig
from captionary.stages import Stage, code_version, fingerprint, locked, run_stage
from captionary.understand.remote import is_remote

__all__ = ["VERBS", "Stages", "placebo_key", "run", "split_of", "training_items"]

VERBS = ("caption", "tokenize", "profile", "train", "evidence", "run")
"""How far a run may go, in the order of the flow; `run` goes to the end, as `evidence` does."""


class Stages(NamedTuple):
    """The finished stages that a later one reads; None where it has not come to it."""

    config: RunConfig
    dataset: Dataset
    data: str
    """Fingerprint of the data set and of the media outside it."""
    force: bool = False
    """Whether what has a caption is captioned again."""
    only_missing: bool = False
    """Whether other captioners' captions are taken where there are some."""
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
            rivals=self.config.evidence.rivals,
            on_visual=self.config.evidence.on_visual,
            events=bool(self.dataset.spec.event_types),
        )


def run(config: RunConfig, last: str = "run", *, force: bool = False, only_missing: bool = False) -> None:
    """Do every stage up to `last` that is not done yet, and say what was found and what was made.

    Args:
        config: of the run.
        last: one of VERBS.
        force: caption again what has a caption.
        only_missing: caption only what has no caption of any captioner; others' captions are taken.

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
        stages = Stages(config, dataset, _data_fingerprint(dataset), force, only_missing)
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
    return dataset.items_in(split_of(config, dataset), "train")


def placebo_key(letter: str, kind: str, seed: int) -> str:
    """The key of one draw of a placebo's tokens and profiles: that of its arm, and the seed that is trained on it."""
    return f"{letter}:{kind}" if kind == "constant" else f"{letter}:{kind}:{seed}"


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
        for uri in entries or []:
            path = dataset.media_path(uri) if uri and not is_remote(uri) else None
            if path is not None and not path.is_relative_to(dataset.root):
                stat = path.stat() if path.exists() else None
                outside.append((uri, stat and stat.st_size, stat and stat.st_mtime_ns))
    return fingerprint(dataset=dataset.fingerprint(), outside=outside)


def _caption(stages: Stages) -> Stage:
    from captionary.captioning import caption_stage

    base = stages.config.data.path or Path()
    return caption_stage(
        stages.config,
        stages.dataset,
        stages.data,
        base=base,
        force=stages.force,
        only_missing=stages.only_missing,
    )


def _tokenize(stages: Stages) -> Stage:
    config, dataset, captions = stages.config, stages.dataset, stages.captions
    assert captions is not None
    expected = fingerprint(
        captions=captions.fingerprint,
        split=split_of(config, dataset),
        tokenizers={letter: to_mapping(chosen) for letter, chosen in config.tokenizers.items()},
        lends=config.gate.lends,
        rivals=(config.evidence.rivals, to_mapping(config.vectors)) if config.evidence.rivals else None,
        written=_written(config),
        code=code_version("represent", "rivals.py", "imagenet.py", "understand/gate_lookalike.py"),
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
            if config.gate.lends:
                tokens = _lend(captions, tokens, lines, known, len(tokenizer.vocabulary))
            write_item_tokens(out / letter / "item_tokens.parquet", table["item_id"], tokens)
            facts["letters"].append(letter)
            facts["tokenizers"][letter] = {
                "kind": tokenizer.kind,
                "vocabulary": len(tokenizer.vocabulary),
                "fingerprint": tokenizer.fingerprint(),
                "tokens_per_item": round(float(tokens.lengths[tokens.lengths > 0].mean()), 2),
            }
        kinds = [kind for kind in config.evidence.rivals if facts["letters"] or kind in CAPTIONLESS]
        if kinds:
            from captionary.rivals import Catalogue, write_rivals

            items, first = dataset.items(), next(iter(config.tokenizers.values()))
            facts["rivals"] = write_rivals(
                kinds,
                config.vectors,
                captions=captions.folder,
                tokens=out,
                letter=next(iter(facts["letters"]), ""),
                known=known,
                base=config.data.path or Path(),
                cache=config.runs / "sentences",
                catalogue=Catalogue(items, _pictures(dataset, items), first, config.folder),
            )
        return facts

    return run_stage(config.folder / "tokens", expected, work)


def _written(config: RunConfig) -> str:
    """Digest of the profiles in words, where a rival reads them."""
    path = config.folder / config.vectors.profile_text
    if "profile_text" not in config.evidence.rivals or not path.exists():
        return ""
    return hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest()


def _pictures(dataset: Dataset, items: pa.Table) -> list[Path | None]:
    """The first local media file of each item."""
    first = [next((uri for uri in entries or [] if uri), "") for entries in items["media"].to_pylist()]
    return [dataset.media_path(uri) if uri and not is_remote(uri) else None for uri in first]


def _lend(
    captions: Stage, tokens: Jagged, lines: list[str], known: npt.NDArray[np.bool_], vocabulary: int
) -> Jagged:
    """Tokens for the items that the gate left out, as their look-alikes teach them."""
    from captionary.understand.gate_lookalike import lend

    with np.load(captions.folder / "vectors.npz") as kept:
        vectors, present = kept["vectors"].astype(np.float32), kept["present"]
    paid = np.array([bool(line) for line in lines])
    return lend(tokens, paid, vectors, present, vocabulary=vocabulary, fitted=known | paid).tokens


def _profile(stages: Stages) -> Stage:
    config, dataset, tokens = stages.config, stages.dataset, stages.tokens
    assert tokens is not None
    expected = fingerprint(
        data=stages.data,
        split=split_of(config, dataset),
        tokens=tokens.fingerprint,
        profiles=to_mapping(config.profiles),
        placebos=[*config.evidence.placebos, config.evidence.seed, config.evidence.seeds],
        rivals=config.evidence.rivals,
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
            if kind != "pictures"  # which has no tokens
            for seed in range(config.evidence.seeds if kind != "constant" else 1)
        ]
        captioned = bool(keys)
        keys += [
            kind for kind in config.evidence.rivals if kind in LISTS and (captioned or kind in CAPTIONLESS)
        ]
        for key in keys:
            listed, idf = item_tokens(stages, key)
            built = build_profiles(events, impressions, items, listed, chosen, idf, engine=config.engine.kind)
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
    held_out = dataset.items_in(split_of(stages.config, dataset), "eval")
    items = dataset.items(["item_id"])["item_id"]
    return events.filter(pc.invert(pc.is_in(events["item_id"], value_set=items.filter(pa.array(held_out)))))


def _train(stages: Stages) -> Stage:
    from captionary.training import train_arms

    return train_arms(stages)


def _evidence(stages: Stages) -> Stage:
    from captionary.gating import curve_path  # which knows the whole run

    config, rankers = stages.config, stages.rankers
    assert rankers is not None
    expected = fingerprint(
        rankers=rankers.fingerprint,
        name=config.name,
        evidence=to_mapping(config.evidence),
        curve=_text(curve_path(config)),
        code=code_version("evidence", "rank", "assemble.py", "reporting.py", "showing.py", "weighing.py"),
    )

    def work(out: Path) -> Mapping[str, Any]:
        from captionary.reporting import write_evidence

        return write_evidence(stages, out)

    return run_stage(config.folder / "report", expected, work)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _say(verb: str, stage: Stage) -> None:
    done = f"{stage.seconds:6.1f} s" if stage.fresh else "up to date"
    click.echo(f"{verb:>9}  {done}  {stage.folder}", err=True)
