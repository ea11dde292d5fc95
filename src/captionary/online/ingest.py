"""From uploaded media to what the store serves of an item, by the steps of the batch run, on a micro-batch.

spool files ──streams? frames──▶ views ──gate──▶ caption job (through the caption store) ──▶ descriptor
    ──normalise──▶ tokenise ──▶ ItemRecord                  nothing is captioned twice
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from captionary.errors import CaptionaryError, bad_value
from captionary.online.allowance import Allowance
from captionary.online.items import ItemRecord
from captionary.online.log import MediaMessage
from captionary.online.spool import Spool
from captionary.online.visible import ItemColumns
from captionary.represent.normalize import NORMALIZER_STEPS, normalize
from captionary.represent.tokenizers import Tokenizer
from captionary.understand.caption import caption_items
from captionary.understand.captioner import Captioner, ImportedCaptions
from captionary.understand.gate import FREE, Budget, GateDecision, gate
from captionary.understand.gate_settings import GateConfig, Policy
from captionary.understand.media import LIMITS, PERMANENT_REASONS, MediaLimits
from captionary.understand.media_settings import MediaConfig
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.signals.signal import Signal
from captionary.understand.store import CaptionStore
from captionary.understand.views import View, views_of

__all__ = ["IngestRecipe", "Made", "MediaPipeline", "gate_of_stream"]

_FINAL = frozenset({*PERMANENT_REASONS, "no_media", "empty_caption", "bad_name"})
"""Reasons that another try of the same bytes would only meet again."""


@dataclass(frozen=True, kw_only=True)
class IngestRecipe:
    """What the batch run did with its media, so that ingest does the same."""

    tokenizer: Tokenizer
    """Of the letter whose profiles the ranker reads."""
    normalize: tuple[str, ...] = tuple(NORMALIZER_STEPS)
    media: MediaConfig = field(default_factory=MediaConfig)
    signals: SignalsConfig = field(default_factory=SignalsConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    columns: ItemColumns = field(default_factory=ItemColumns)
    limits: MediaLimits = LIMITS
    batch_size: int = 32
    """Pictures per call of the captioner, >= 1."""

    def __post_init__(self) -> None:
        for name in ("items", "seconds", "money"):
            if getattr(self.gate, name) is not None:
                todo = "limit uploads by --items-per-day"
                raise bad_value(
                    f"gate.{name}", getattr(self.gate, name), "absent: a stream has no end", todo=todo
                )
        if self.gate.policy == "learned":
            todo = "limit uploads by --items-per-day, or use `rules`, or `budget` with gate.share"
            raise bad_value(
                "gate.policy", "learned", "one that needs no past of an item", where="ingest", todo=todo
            )


def gate_of_stream(gate: GateConfig, items_per_day: int | None) -> GateConfig:
    """A run's gate as uploads meet it: with a limit for each day, those of the whole run do not count.

    `learned` judges items by their past, which an upload has not: uploads are then taken as they come, up to the limit.
    """
    if items_per_day is None:
        return gate
    policy: Policy = "always" if gate.policy == "learned" else gate.policy
    return dataclasses.replace(gate, policy=policy, items=None, seconds=None, money=None)


class Made(NamedTuple):
    """What became of one upload."""

    record: ItemRecord
    """`status` ok, failed, or skipped by the gate."""
    again: bool
    """Whether another try may help: the captioner failed, or a file could not be read."""


class MediaPipeline:
    """Turns uploads into item records; of one thread.

    Args:
        captioner: of the run.
        store: of captions; read first, written after every batch.
        spool: where the uploaded files are.
        recipe: what the batch run did.
        allowance: of captioned items a day; None: no such limit.
    """

    def __init__(
        self,
        captioner: Captioner,
        store: CaptionStore,
        spool: Spool,
        recipe: IngestRecipe,
        allowance: Allowance | None = None,
    ) -> None:
        if isinstance(captioner, ImportedCaptions):
            raise bad_value("captioner", "import", "one that captions new media", where="ingest")
        self.captioner, self.store, self.spool, self.recipe = captioner, store, spool, recipe
        self.allowance = allowance
        self.captioned = 0
        """Pictures that the captioner was asked about."""
        self._streams: Any = None

    def make(self, messages: Sequence[MediaMessage]) -> list[Made]:
        """One record per upload, in order; a bad upload fails alone.

        Raises:
            StoppedError: the captioner cannot go on; what it had captioned is in the caption store.
            CaptionaryError: the caption store fails.
        """
        items, bad = self._table(messages)
        views, _ = views_of(items, entries=self.recipe.media.entries, most=self.recipe.media.most)
        unfolded = self._unfold(views)
        held = self._held(items)
        granted = 0
        if self.allowance is not None:
            held = held or [""] * len(messages)
            asking = [row for row, views in enumerate(unfolded.views) if views and not held[row]]
            granted = self.allowance.take(len(asking))
            for row in asking[granted:]:
                held[row] = "gate_over_budget"
        if held is not None:
            views = [[] if held[row] else of_item for row, of_item in enumerate(unfolded.views)]
        else:
            views = unfolded.views
        report = caption_items(
            items,
            self.spool.folder,
            self.captioner,
            self.store,
            batch_size=self.recipe.batch_size,
            progress=False,
            limits=self.recipe.limits,
            views=views,
            merge=self._merge,
            similar=self.recipe.media.similar,
            decode_threads=self.recipe.media.decode_threads,
            decode_processes=self.recipe.media.decode_processes,
        )
        self.captioned += report.pictures
        if self.allowance is not None:
            self.allowance.give_back(max(0, granted - report.pictures))
        captions = report.captions["caption"].to_pylist()
        descriptors = self._described(captions, unfolded.signals, messages)
        normalized = ["" if d is None else normalize(d, self.recipe.normalize) for d in descriptors]
        tokens = self.recipe.tokenizer.encode(normalized)
        rows = report.captions.select(["media_digest", "status", "reason", "detail"]).to_pylist()
        made = []
        for row, message in enumerate(messages):
            found = rows[row]
            status, reason, detail = found["status"], found["reason"] or "", found["detail"] or ""
            if row in bad:
                status, reason, detail = "failed", *bad[row]
            elif descriptors[row]:
                status, reason, detail = "ok", "", ""
            elif held is not None and held[row]:
                status, reason = "skipped", held[row]
            elif unfolded.refused[row] is not None:
                status, (reason, detail) = "failed", unfolded.refused[row]
            elif status == "skipped":  # no media at all
                status = "failed"
            ok = status == "ok"
            vector = report.vectors[row].astype("<f4").tobytes() if report.has_vector[row] else b""
            record = ItemRecord(
                item_id=message.item_id,
                status=status,
                tokens=tokens.row(row).astype("<i4").tobytes() if ok else b"",
                caption=(descriptors[row] or "") if ok else "",
                normalized=normalized[row] if ok else "",
                title=message.title,
                columns=message.columns,
                media=message.media,
                media_digest=found["media_digest"] or "",
                captioner=self.captioner.fingerprint,
                reason=reason,
                detail=detail,
                received_at=message.received_at,
                vector=vector,
            )
            made.append(Made(record, status == "failed" and reason not in _FINAL))
        return made

    def _table(self, messages: Sequence[MediaMessage]) -> tuple[pa.Table, dict[int, tuple[str, str]]]:
        """The uploads as the items of a catalogue, numbered; and those that name no file of the spool."""
        bad: dict[int, tuple[str, str]] = {}
        media: list[list[str]] = []
        for row, message in enumerate(messages):
            try:
                for name in message.media:
                    self.spool.path(name)
                media.append(list(message.media))
            except CaptionaryError as error:
                bad[row] = "bad_name", str(error)
                media.append([])
        table = pa.table(
            {
                "item_id": pa.array(range(len(messages)), pa.int64()),
                "media": pa.array(media, pa.list_(pa.string())),
                "title": pa.array([message.title for message in messages], pa.string()),
                "created_at": pa.array([m.received_at for m in messages], pa.timestamp("us", "UTC")),
            }
        )
        return table, bad

    def _unfold(self, views: list[list[View]]) -> Any:
        """Videos, animations and sounds as frames and signals, kept beside the spool."""
        if self._streams is None:
            from captionary.understand.streams import Streams

            size = getattr(self.captioner, "image_size", None)
            # Absolute: the caption job looks for what is not below the spool.
            folder = self.spool.folder.resolve() / "streams"
            self._streams = Streams(self.recipe.signals, folder, size, self.recipe.limits)
        return self._streams.unfold(views, self.spool.folder, lambda uri, root: root / uri)

    def _held(self, items: pa.Table) -> list[str] | None:
        """The gate's reason for each item that is not to be captioned, "" for the others; None without a gate.

        A new item has no past: it is judged by its text, its media, and what was captioned before.
        """
        config = self.recipe.gate
        if config.policy == "always":
            return None
        from captionary.understand.gate_context import Catalogue, build_context, look

        looked = look(items, self.spool.folder, self.captioner, self.store, embed=False)
        nothing = pa.table(
            {"item_id": pa.array([], pa.int64()), "timestamp": pa.array([], pa.timestamp("us", "UTC"))}
        )
        cutoff = time.time_ns() // 1000
        context = build_context(Catalogue(items, nothing, nothing), looked, cutoff, config)
        decision: GateDecision = gate(items, context, Budget.of(config, context), config)
        return ["" if reason in FREE else reason for reason in decision.reason]

    def _said(self) -> str:
        return f"{self.captioner.name} {self.captioner.fingerprint}"

    def _describe(self, signals: Sequence[Signal]) -> str:
        from captionary.understand.signals.descriptor import describe

        return describe(signals, self.recipe.signals.max_characters)

    def _merge(self, captions: Sequence[str]) -> str:
        said = self._said()
        return self._describe([Signal("caption", text, said, frame=n) for n, text in enumerate(captions)])

    def _described(
        self,
        captions: Sequence[str | None],
        signals: Sequence[Sequence[Signal]],
        messages: Sequence[MediaMessage],
    ) -> list[str | None]:
        from captionary.understand.streams import with_descriptors

        titles = [message.title if self.recipe.signals.title else None for message in messages]
        describe: Callable[[Sequence[Signal]], str] = self._describe
        return with_descriptors(captions, signals, titles, captioner=self._said(), describe=describe)[0]
