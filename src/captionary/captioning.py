"""The caption stage of a run: from media entries to one normalised caption an item, each paid for once.

media ──remote? fetch──▶ files ──videos, sounds? frames and signals──▶ views ──gate──▶ caption job ──▶ descriptors
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captionary.config import to_mapping
from captionary.contract import Dataset
from captionary.publish import atomic_file
from captionary.settings import RunConfig
from captionary.stages import Stage, code_version, fingerprint, run_stage
from captionary.understand.captioner import fingerprint_of
from captionary.understand.media import digest_bytes, locate
from captionary.understand.remote import RemoteConfig, fetch, is_remote

__all__ = ["CODE", "Fetcher", "caption_stage"]

CODE = (
    *("captioning.py", "gating.py", "represent/normalize.py", "understand/signals"),
    *(
        f"understand/{name}.py"
        for name in (
            *(
                "caption",
                "engine_ray",
                "formats",
                "job",
                "media",
                "polyglot",
                "refusals",
                "remote",
                "similar",
            ),
            *("streams", "untrusted", "views", "workers"),
        )
    ),
)
"""What decides a captions table besides the captioner."""


class Fetcher:
    """Finds a media entry's file: local ones where they are, remote ones fetched once into `folder`."""

    def __init__(self, config: RemoteConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder

    def __call__(self, uri: str, root: Path) -> Path:
        """The local file of a media entry.

        Raises:
            MediaError: it may not or cannot be fetched.
        """
        if not is_remote(uri):
            return locate(uri, root)
        path = self.folder / digest_bytes(uri.encode())
        if not path.exists():
            data = fetch(uri, self.config)
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(data)
        return path


def caption_stage(
    config: RunConfig,
    dataset: Dataset,
    data: str,
    *,
    base: Path,
    force: bool = False,
    only_missing: bool = False,
) -> Stage:
    """Caption the catalogue of a run, as a stage.

    Args:
        config: of the run.
        dataset: whose items are captioned.
        data: fingerprint of the data set.
        base: where relative paths of the config start.
        force: caption again what has a caption.
        only_missing: take other captioners' captions where there are some.
    """
    media = {
        name: value
        for name, value in to_mapping(config.media).items()
        if name in ("entries", "most", "similar", "remote")
    }
    expected = fingerprint(
        data=data,
        captioner=fingerprint_of(config.captioner, base),
        media=media,
        signals=to_mapping(config.signals),
        normalize=list(config.normalize),
        gate=to_mapping(config.gate),
        model=_gate_model(config),
        code=code_version(*CODE),
    )
    return run_stage(
        config.folder / "captions",
        expected,
        lambda out: _work(config, dataset, data, out, base, force=force, only_missing=only_missing),
        # What failed for the captioner's sake, not the picture's, is worth another try.
        again=lambda done: force or "captioner_error" in done.facts["failed"],
    )


def _work(
    config: RunConfig,
    dataset: Dataset,
    data: str,
    out: Path,
    base: Path,
    *,
    force: bool,
    only_missing: bool,
) -> Mapping[str, Any]:
    from captionary.represent.normalize import normalize
    from captionary.understand.caption import caption_items
    from captionary.understand.captioner import ImportedCaptions, NoCaptioner, load_captioner
    from captionary.understand.gate_context import carried_out, hold_back
    from captionary.understand.signals.descriptor import describe
    from captionary.understand.signals.signal import Signal
    from captionary.understand.store import CaptionStore
    from captionary.understand.streams import Streams, with_descriptors
    from captionary.understand.views import views_of

    items, media = dataset.items(), config.media
    anything = any(entries for entries in items["media"].to_pylist())
    # A data set without media needs no model: every item is skipped with its reason.
    imported = config.captioner.source.startswith("import:")
    chosen = config.captioner
    if config.engine.kind == "ray" and chosen.kind == "builtin":
        chosen = replace(chosen, device="cpu")  # here it is asked for its name alone; devices are the actors'
    captioner = load_captioner(chosen, base) if anything or imported else NoCaptioner()
    find = Fetcher(media.remote, config.runs / "media")
    said = f"{captioner.name} {captioner.fingerprint}"

    def describe_signals(signals: Sequence[Signal]) -> str:
        return describe(signals, config.signals.max_characters)

    def merge(captions: Sequence[str]) -> str:
        told = [Signal("caption", text, said, frame=n) for n, text in enumerate(captions)]
        return describe_signals(told)

    unfolded = None
    with CaptionStore(config.runs / "captions.sqlite") as store:
        gated = None
        if config.gate.decides and anything and not imported:
            from captionary.gating import gate_stage  # which knows the whole run

            gated, looked = gate_stage(config, dataset, data, captioner, store, config.gate)
            items = hold_back(items, gated.decision)
        views, _ = views_of(items, entries=media.entries, most=media.most)
        if not isinstance(captioner, ImportedCaptions):
            size = getattr(captioner, "image_size", None)
            unfolded = Streams(config.signals, config.runs / "streams", size).unfold(
                views, dataset.root, find
            )
            views = unfolded.views
        report = caption_items(
            items,
            dataset.root,
            captioner,
            store,
            batch_size=config.captioner.pictures,
            progress=True,
            views=views,
            locate=find,
            merge=merge,
            decode_threads=media.decode_threads,
            decode_processes=media.decode_processes,
            similar=media.similar,
            force=force,
            only_missing=only_missing,
            engine=_engine(config, base),
        )
        if gated is not None:
            report = carried_out(report, gated.decision, looked)
    click.echo(report.to_string(), err=True)
    table = report.captions
    if unfolded is not None:
        captions: list[str | None] = table["caption"].to_pylist()
        titles = items["title"].to_pylist() if config.signals.title and "title" in items.column_names else []
        descriptors, records = with_descriptors(
            captions,
            unfolded.signals,
            titles or [None] * len(captions),
            captioner=said,
            describe=describe_signals,
        )
        table = _described(table, descriptors, records, unfolded.refused)
    normalized = [
        None if caption is None else normalize(caption, config.normalize)
        for caption in table["caption"].to_pylist()
    ]
    table = table.append_column("normalized", pa.array(normalized, pa.string()))
    pq.write_table(table, out / "captions.parquet")
    np.savez(out / "vectors.npz", vectors=report.vectors.astype(np.float16), present=report.has_vector)
    outcomes = Counter(zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True))
    return {
        "captioner": captioner.name,
        "fingerprint": captioner.fingerprint,
        "encoder": getattr(captioner, "encoder_fingerprint", ""),
        "ok": outcomes["ok", None],
        "vectors": int(report.has_vector.sum()) if report.vectors.shape[1] else 0,
        **report.to_dict(),
        "failed": {str(reason): n for (status, reason), n in outcomes.items() if status == "failed"},
        "skipped": {str(reason): n for (status, reason), n in outcomes.items() if status == "skipped"},
        "streams": unfolded.streams if unfolded is not None else 0,
        "images_per_second": round(report.pictures / report.seconds, 2) if report.pictures else None,
    }


def _described(
    table: pa.Table,
    descriptors: Sequence[str | None],
    records: Sequence[str | None],
    refused: Sequence[tuple[str, str] | None],
) -> pa.Table:
    """The captions table with descriptors for captions, a column of signals, and the reasons of refused streams."""
    columns = {name: table[name].to_pylist() for name in ("caption", "status", "reason", "detail")}
    for row, descriptor in enumerate(descriptors):
        if descriptor and columns["caption"][row] is None:
            columns["status"][row], columns["reason"][row] = "ok", None
        elif (found := refused[row]) is not None and columns["caption"][row] is None and not descriptor:
            columns["status"][row] = "failed"
            columns["reason"][row], columns["detail"][row] = found
        columns["caption"][row] = descriptor
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table.append_column("signals", pa.array(records, pa.string()))


def _gate_model(config: RunConfig) -> str:
    """The digest of the learned policy's model, where that policy decides."""
    if config.gate.policy != "learned":
        return ""
    from captionary.gating import model_path  # which knows the whole run

    path = model_path(config, config.gate)
    return digest_bytes(path.read_bytes()) if path.exists() else ""


def _engine(config: RunConfig, base: Path) -> Any:
    if config.engine.kind == "local" or config.captioner.source.startswith("import:"):
        return None
    from functools import partial

    from captionary.understand.captioner import load_captioner
    from captionary.understand.engine_ray import RayEngine

    return RayEngine(
        load=partial(load_captioner, config.captioner, base.resolve()),  # type: ignore[arg-type]
        actors=config.engine.actors,
        gpus_per_actor=config.engine.gpus_per_actor,
        address=config.engine.address,
    )
