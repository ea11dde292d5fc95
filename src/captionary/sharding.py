"""A run's finished stages as shards for training from disk: never more of the impressions in memory than a part.

impressions ─┐                        in the order of time: straight through
profiles    ─┴─ batch by batch ──┬──▶ in any other: dealt out by time into files of their own, each sorted
tokens, visual and other vectors of items ──▶ items.parquet
"""

from __future__ import annotations

import shutil
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary import __version__
from captionary.assemble import profile_folder
from captionary.contract import Dataset, open_dataset, plain_type, table_files
from captionary.errors import bad_value, nearest
from captionary.pipeline import run, split_of
from captionary.publish import atomic_folder
from captionary.rank.shard_writer import ShardWriter
from captionary.rank.shards import TOKEN_VECTORS, Shards, ShardSchema, open_shards, projection_path
from captionary.represent.jagged import Jagged
from captionary.represent.tables import read_item_tokens
from captionary.represent.tokenizers import Tokenizer, load_tokenizer
from captionary.represent.vectors import Whitening
from captionary.settings import RunConfig
from captionary.sharding_vectors import (
    RunVectors,
    as_lists,
    chosen_vectors,
    earlier_projection,
    named_projection,
    run_vectors,
    token_start,
)
from captionary.stages import fingerprint, read_stage

__all__ = ["Between", "make_shards", "tokenizer_name"]

_BATCH = 65_536  # impressions read at once
_DEALT = 1_048_576  # impressions of a file that is sorted in memory
_FILES = 200  # of those, open at once
_TIME = pa.timestamp("us", tz="UTC")


class Between(NamedTuple):
    """Which impressions: a day's, say."""

    since: datetime | None = None
    """Not earlier."""
    until: datetime | None = None
    """Earlier."""

    def chosen(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of some times, in microseconds, are between the two."""
        kept = np.ones(len(times), bool)
        if self.since is not None:
            kept &= times >= _micros(self.since)
        if self.until is not None:
            kept &= times < _micros(self.until)
        return kept


def make_shards(
    config: RunConfig,
    out: Path,
    *,
    letter: str | None = None,
    tokens: bool = True,
    visual: bool = True,
    vectors: Sequence[str] | None = None,
    between: Between | None = None,
    like: Path | None = None,
    shard_rows: int = 1_048_576,
) -> Shards:
    """Write the impressions of a run's split as shards; its stages up to profiles are brought up to date first.

    Projections of vectors are fitted on training impressions that are written and their items: on nothing later.

    Args:
        config: the run.
        out: a new folder, or one that an earlier call wrote.
        letter: the tokenizer; None: the first. Profiles are there for the first alone.
        tokens: False: neither tokens nor profiles.
        visual: whether items get their whitened visual vectors, where the captioner has some.
        vectors: which further vectors of the run, of `captionary.sharding_vectors.VECTORS`; None: those of `like`.
        between: only impressions of this time; default: all.
        like: earlier shards, whose projections of vectors are taken, so that a ranker trained on them can go on; their
            tokenizer may have grown since, and what they did not have may be added.
        shard_rows: impressions of a shard.

    Raises:
        CaptionaryError: no such tokenizer or vectors, no impressions to train on, or nothing that a ranker trained on
            `like` could go on with; see `captionary.pipeline.run`.
    """
    if letter is not None and letter not in config.tokenizers:
        raise bad_value("tokenizer", letter, nearest(letter, config.tokenizers), where=f"run {config.name}")
    earlier = open_shards(like) if like is not None else None
    run(config, "profile")
    dataset = open_dataset(config.data.path or config.folder / "data" / "world")
    chosen = letter or next(iter(config.tokenizers))
    named = chosen_vectors(config, vectors, earlier)
    folder = config.folder / "tokens" / chosen
    tokens = tokens and folder.exists()
    profiled = tokens and chosen == next(iter(config.tokenizers))
    home = config.folder / "profiles"
    keyed = profile_folder(home, next(iter(config.tokenizers)))
    rows = _Impressions(dataset, config, keyed if keyed.exists() else home / "activity", profiled, between)
    known = rows.items()
    captions = config.folder / "captions"
    described = read_stage(captions)
    encoder = str(described.facts.get("encoder", "")) if described is not None and visual else ""
    whitening = _whitening(captions, known, config.visual_dimensions, earlier, encoder) if visual else None
    carried = {
        name: run_vectors(config, name, known, rows.training(), earlier)
        for name in named
        if name != "word2vec"
    }
    learnt = token_start(config, chosen, tokens=tokens) if "word2vec" in named else None
    spec = dataset.spec
    tokenizer = load_tokenizer(folder) if tokens else None
    lists = read_item_tokens(folder / "item_tokens.parquet")[1] if tokens else None
    schema = ShardSchema(
        tasks=tuple(task.name for task in spec.tasks),
        task_kinds=tuple(task.kind for task in spec.tasks),
        task_weights=tuple(task.weight for task in spec.tasks),
        context_categorical=spec.context.categorical,
        context_numeric=spec.context.numeric,
        item_categorical=spec.item_features.categorical,
        item_numeric=spec.item_features.numeric,
        events=rows.events,
        visual=whitening.components.shape[1] if whitening is not None else 0,
        tokens=tokens,
        token_weights=lists is not None and lists.weights is not None,
        profiles=profiled and bool(rows.events),
        vocabulary=len(tokenizer.vocabulary) if tokenizer is not None else 0,
        tokenizer=tokenizer_name(tokenizer, earlier.schema.tokenizer if earlier else "")
        if tokenizer is not None
        else "",
        whitening=named_projection(whitening) if whitening is not None else "",
        encoder=encoder if whitening is not None else "",
        vectors={name: each.column for name, each in carried.items()},
        token_vectors=learnt[1] if learnt is not None else "",
    )
    if earlier is not None:
        todo = "name the same columns, tokenizer and vectors, or leave --like out"
        schema.check_continues(earlier.schema, f"run {config.name}", those=str(like), todo=todo)
    made_of = {
        "run": config.name,
        "captionary": __version__,
        "split": split_of(config, dataset),
        "tokenizer": tokenizer.fingerprint() if tokenizer is not None else None,
        "since": between and between.since and between.since.isoformat(),
        "until": between and between.until and between.until.isoformat(),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with atomic_folder(out) as partial:
        with ShardWriter(partial, schema, made_of, shard_rows=shard_rows) as writer:
            writer.items([_items(dataset, schema, lists, whitening, carried, captions)])
            rows.carried = {name: each for name, each in carried.items() if each.text is not None}
            for part, table in rows.in_time(partial / "sorting"):
                writer.write(part, table)
        if whitening is not None:
            path = projection_path(partial)
            np.savez(path, mean=whitening.mean, components=whitening.components)
        for name, each in carried.items():
            each.save(partial, name)
        if learnt is not None:
            learnt[0].save(partial / TOKEN_VECTORS)
    return open_shards(out)


def tokenizer_name(tokenizer: Tokenizer, earlier: str = "") -> str:
    """Kind, size and digest of a vocabulary; where the one that `earlier` names is the beginning of it, that name: no
    token of it has another id now."""
    kind, size, _ = earlier.rsplit(" ", 2) if earlier else ("", "0", "")
    if kind != tokenizer.kind or _name(tokenizer, int(size)) != earlier:
        return _name(tokenizer, len(tokenizer.vocabulary))
    return earlier


def _name(tokenizer: Tokenizer, size: int) -> str:
    return f"{tokenizer.kind} {size} {fingerprint(vocabulary=list(tokenizer.vocabulary[:size]))}"


class _Impressions:
    """The impressions of a split beside their profiles, a batch at a time."""

    def __init__(
        self, dataset: Dataset, config: RunConfig, profiles: Path, profiled: bool, between: Between | None
    ) -> None:
        self.dataset, self.between = dataset, between or Between()
        self.split = dataset.spec.splits[split_of(config, dataset)].column
        self.files = table_files(dataset.root, "impressions")
        self.profiles = sorted(profiles.glob("*.parquet"))
        self.events = tuple(urllib.parse.unquote(path.stem) for path in self.profiles)
        self.profiled = profiled
        self.carried: dict[str, RunVectors] = {}
        """Vectors that impressions have."""

    def training(self) -> Iterator[pa.Table]:
        """user_id, item_id and timestamp of the training impressions that are written, in the order of the files."""
        for table in _batches(self.files, ["user_id", "item_id", "timestamp", self.split]):
            yield table.filter(self._inside(table, "train"))

    def items(self) -> npt.NDArray[np.bool_]:
        """Which items [I] these are of."""
        ids = self.dataset.items(["item_id"])["item_id"].combine_chunks()
        shown = np.zeros(len(ids), bool)
        for table in self.training():
            shown |= np.asarray(pc.is_in(ids, value_set=pc.unique(table["item_id"])))
        return shown

    def in_time(self, scratch: Path) -> Iterator[tuple[str, pa.Table]]:
        """(train or eval, impressions), each part in the order of time, rows of one time in that of the files."""
        ends = self._ends()
        if ends is None:
            yield from self._parts()
            return
        scratch.mkdir()
        try:
            with ExitStack() as stack:
                writers: dict[Path, pq.ParquetWriter] = {}
                for part, table in self._parts():
                    place = np.searchsorted(ends, _times(table), side="right")
                    for number in np.unique(place):
                        path = scratch / f"{part}-{number:05d}.parquet"
                        if path not in writers:
                            opened = pq.ParquetWriter(path, table.schema, compression="lz4")
                            writers[path] = stack.enter_context(opened)
                        writers[path].write_table(table.filter(pa.array(place == number)))
            for path in sorted(writers):
                table = pq.read_table(path)
                yield path.name.split("-")[0], table.take(pa.array(np.argsort(_times(table), kind="stable")))
                path.unlink()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _ends(self) -> npt.NDArray[np.int64] | None:
        """Moments that divide the impressions into files to sort; None where they are in order."""
        ordered, latest, rows = True, -(1 << 62), 0
        sample: list[npt.NDArray[np.int64]] = []
        total = sum(pq.read_metadata(path).num_rows for path in self.files)
        stride = max(1, total // 1_000_000)
        for table in _batches(self.files, ["timestamp"]):
            times = _times(table)
            ordered &= bool((np.diff(times, prepend=latest) >= 0).all())
            latest = int(times[-1]) if len(times) else latest
            sample.append(times[::stride])
            rows += len(times)
        if ordered:
            return None
        count = min(_FILES, -(-rows // _DEALT))
        found = np.sort(np.concatenate(sample))
        return found[np.arange(1, count) * len(found) // count]

    def _parts(self) -> Iterator[tuple[str, pa.Table]]:
        """Train and eval rows of each batch, in the order of the files."""
        spec = self.dataset.spec
        context = [*spec.context.categorical, *spec.context.numeric]
        wanted = ["impression_id", "user_id", "item_id", "timestamp", self.split, *context]
        wanted += [task.column for task in spec.tasks]
        beside = [_Profiles(path, self.profiled) for path in self.profiles]
        for table in _batches(self.files, list(dict.fromkeys(wanted))):
            columns = {name: table[name] for name in ("user_id", "item_id", "timestamp")}
            for name in spec.context.categorical:
                columns[f"context.{name}"] = table[name]
            for name in spec.context.numeric:
                columns[f"context.{name}"] = pc.cast(table[name], pa.float64())
            labels = self.dataset.labels(table)
            for place, task in enumerate(spec.tasks):
                columns[f"label.{task.name}"] = pa.array(labels[:, place], from_pandas=True)
            for event, profiles in zip(self.events, beside, strict=True):
                found = profiles.take(table["impression_id"].combine_chunks())
                columns[f"mass.{event}"] = found["mass"]
                if self.profiled:
                    columns[f"token_ids.{event}"] = found["token_ids"]
                    columns[f"weights.{event}"] = found["weights"]
            for name, each in self.carried.items():
                assert each.text is not None
                columns[f"vector.{name}"] = as_lists(each.values[each.text.rows(table)])
            whole = pa.table(columns)
            for part in ("train", "eval"):
                rows = whole.filter(self._inside(table, part))
                if rows.num_rows:
                    yield part, rows

    def _inside(self, table: pa.Table, part: str) -> pa.Array:
        """Which impressions are of `part` and of the time that is asked for."""
        chosen = pa.array(self.between.chosen(_times(table)))
        return pc.and_(chosen, pc.fill_null(pc.equal(table[self.split], part), False))


class _Profiles:
    """The profiles of one event type, in the order of the impressions."""

    def __init__(self, path: Path, listed: bool) -> None:
        columns = ["impression_id", "mass", *(("token_ids", "weights") if listed else ())]
        self.path, self._coming = path, _batches([path], columns)
        self._held: pa.Table | None = None

    def take(self, impression_ids: pa.Array) -> pa.Table:
        """The profiles of the next impressions, whose ids these are."""
        held = [] if self._held is None else [self._held]
        while sum(each.num_rows for each in held) < len(impression_ids):
            table = next(self._coming, None)
            if table is None:
                break
            held.append(table)
        whole = pa.concat_tables(held) if held else None
        if whole is None or not whole["impression_id"].slice(0, len(impression_ids)).combine_chunks().equals(
            impression_ids
        ):
            rule = "those of the impressions, in their order"
            todo = "delete the folder and run captionary profile again"
            raise bad_value("impression_id", "other ids", rule, where=str(self.path), todo=todo)
        self._held = whole.slice(len(impression_ids))
        return whole.slice(0, len(impression_ids))


def _items(
    dataset: Dataset,
    schema: ShardSchema,
    tokens: Jagged | None,
    whitening: Whitening | None,
    carried: Mapping[str, RunVectors],
    captions: Path,
) -> pa.Table:
    """The catalogue with everything that a ranker reads of an item."""
    table = dataset.items(["item_id", *schema.item_categorical, *schema.item_numeric])
    columns = {"item_id": table["item_id"]}
    columns |= {f"item.{name}": table[name] for name in schema.item_categorical}
    columns |= {f"item.{name}": pc.cast(table[name], pa.float64()) for name in schema.item_numeric}
    if tokens is not None:
        token_ids, weights = tokens.to_arrow()
        columns |= {"token_ids": token_ids} | ({} if weights is None else {"token_weights": weights})
    if whitening is not None:
        with np.load(captions / "vectors.npz") as stored:
            vectors = whitening.apply(stored["vectors"].astype(np.float32), stored["present"])
        columns["visual"] = as_lists(vectors)
    columns |= {
        f"vector.{name}": as_lists(each.values) for name, each in carried.items() if each.text is None
    }
    return pa.table(columns)


def _whitening(
    captions: Path, known: npt.NDArray[np.bool_], dimensions: int, earlier: Shards | None, encoder: str
) -> Whitening | None:
    """The projection of visual vectors: that of earlier shards, or fitted on the items `known` where these have none
    or are not given; None without vectors."""
    with np.load(captions / "vectors.npz") as stored:
        vectors, present = stored["vectors"].astype(np.float32), stored["present"]
    if earlier is not None and earlier.schema.visual:
        return earlier_projection(earlier, "", vectors.shape[1], encoder)
    fitted = known & present
    return Whitening.fit(vectors[fitted], dimensions) if fitted.any() else None


def _batches(files: Sequence[Path], columns: list[str]) -> Iterator[pa.Table]:
    """Columns of some Parquet files, in the contract's plain types, some rows at a time."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=columns):
                table = pa.Table.from_batches([batch])
                plain = pa.schema(
                    [pa.field(each.name, plain_type(each.name, each.type)) for each in table.schema]
                )
                yield table.cast(plain, safe=False)


def _times(table: pa.Table) -> npt.NDArray[np.int64]:
    times: npt.NDArray[np.int64] = table["timestamp"].cast(_TIME).cast(pa.int64()).to_numpy()
    return times


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution)
