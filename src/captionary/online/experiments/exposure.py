"""Who saw which arm, and since when: the log that every analysis begins with.

    log() ──a line each──▶ NAME.jsonl.open ──full, old or closed──▶ NAME.jsonl ──compact──▶ NAME.parquet

A user counts from the first exposure on: the first time that something was done which the arm could have changed. An
exposure may be logged any number of times, by any number of processes; readers take the first.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections import OrderedDict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from captionary.errors import bad_value
from captionary.online.experiments.assignment import Assignment
from captionary.online.forgotten import Forgotten, alone_in, hold, is_held
from captionary.publish import atomic_file

__all__ = ["Exposed", "ExposureLog", "compact", "erase_exposures", "first_exposures", "read_exposures"]

_SCHEMA: dict[str, Any] = {
    "user_id": pl.String,
    "experiment": pl.String,
    "arm": pl.String,
    "at": pl.Datetime("us", "UTC"),
    "trigger": pl.String,
    "forced": pl.Boolean,
}
_OPEN = ".jsonl.open"


class ExposureLog:
    """Appends exposures to segments of a folder; for any number of threads, and of processes on one folder.

    Each exposure is one write to the system: a killed process loses none that `log` returned from. A segment is synced
    to disk when it is sealed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_rows: int = 100_000,
        segment_seconds: float = 300.0,
        remembered: int = 1_000_000,
    ) -> None:
        """Make the folder where needed; nothing is written before the first exposure.

        Args:
            folder: where segments go.
            segment_rows: exposures in a segment at most.
            segment_seconds: seconds that a segment stays open at most, while exposures come.
            remembered: exposures of this process that are not written again, the latest.
        """
        for name, value in (("segment_rows", segment_rows), ("segment_seconds", segment_seconds)):
            if not value > 0:
                raise bad_value(name, value, "> 0")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows, self._seconds, self._remembered = segment_rows, segment_seconds, remembered
        self._seen: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._path = Path()
        self._written, self._since = 0, 0.0

    def log(
        self, user: Any, assignment: Assignment, *, trigger: str = "rank", at: datetime | None = None
    ) -> bool:
        """Write down that the user met the arm; nothing for users outside the experiment.

        Args:
            user: their id.
            assignment: what `Assigner.assign` said.
            trigger: what was done that the arm could have changed.
            at: the moment, with a time zone; None for now.

        Returns:
            Whether it was written: False for users without an arm and where this process wrote it before.
        """
        if assignment.arm is None:
            return False
        key = (str(user), assignment.experiment, assignment.arm)
        line = {
            "user_id": key[0],
            "experiment": key[1],
            "arm": key[2],
            "at": at or datetime.now(UTC),
            "trigger": trigger,
            "forced": assignment.reason == "forced",
        }
        text = _line(line).encode()
        with self._lock:
            if key in self._seen:
                return False
            os.write(self._segment(), text)
            self._written += 1
            self._seen[key] = None
            if len(self._seen) > self._remembered:
                self._seen.popitem(last=False)
        return True

    def erase(self, forgotten: Forgotten) -> int:
        """Delete the exposures of people before they were forgotten; how many lines.

        Who comes back is logged anew. Segments that other processes still write are left to them. Blocks, for as long
        as it takes to read all that is kept; `log` goes on meanwhile.
        """
        if not forgotten.partings:
            return 0
        with self._lock:
            self._seal()
            gone = forgotten.of_names(user for user, *_ in self._seen)
            for key in [key for key in self._seen if key[0] in gone]:
                del self._seen[key]
        return erase_exposures(self.folder, forgotten)

    def close(self) -> None:
        """Seal the open segment."""
        with self._lock:
            self._seal()

    def __enter__(self) -> ExposureLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _segment(self) -> int:
        old = time.monotonic() - self._since > self._seconds
        if self._descriptor is not None and (self._written >= self._rows or old):
            self._seal()
        if self._descriptor is None:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
            self._path = self.folder / f"{stamp}-{uuid.uuid4().hex[:12]}{_OPEN}"
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            hold(self._descriptor)
            self._written, self._since = 0, time.monotonic()
        return self._descriptor

    def _seal(self) -> None:
        if self._descriptor is None:
            return
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        self._path.rename(self._path.with_name(self._path.name.removesuffix(".open")))


class Exposed(NamedTuple):
    """The users of one experiment that an analysis may count."""

    experiment: str
    arms: tuple[str, ...]
    """Names, in the order of `arm`."""
    users: pl.Series
    """[N] Their ids as text, each once."""
    arm: npt.NDArray[np.int8]
    """[N] Index into `arms`."""
    first: npt.NDArray[np.int64]
    """[N] Microseconds since 1970 of the first exposure."""
    contaminated: int
    """Users who were seen in two arms; they are left out."""
    forced: int
    """Users with a forced arm; they are left out."""
    repeated: int
    """Exposures beside the first ones."""

    @property
    def contamination(self) -> float:
        """Share of users who were seen in two arms."""
        return self.contaminated / max(len(self.users) + self.contaminated, 1)

    @property
    def counts(self) -> dict[str, int]:
        """Arm → users."""
        return {name: int((self.arm == index).sum()) for index, name in enumerate(self.arms)}


def read_exposures(folder: Path, experiment: str | None = None) -> pl.DataFrame:
    """Every exposure of a folder of segments, those still open included; a line cut short by a crash is no exposure.

    Returns:
        Columns user_id, experiment, arm, at (UTC), trigger, forced; one row per line written.

    Raises:
        CaptionaryError: the folder is not there, or a line that is whole is no exposure.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise bad_value("exposures", str(folder), "a folder of exposure segments")
    parts = [pl.DataFrame(schema=_SCHEMA)]
    parts += [pl.read_parquet(path).select(list(_SCHEMA)) for path in sorted(folder.glob("*.parquet"))]
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob(f"*{_OPEN}")]):
        try:
            text = path.read_bytes()
        except FileNotFoundError:  # sealed since it was listed
            text = path.with_name(path.name.removesuffix(".open")).read_bytes()
        parts.append(_parsed(text, path))
    table = pl.concat(parts)
    return table if experiment is None else table.filter(pl.col("experiment") == experiment)


def compact(folder: Path) -> Path | None:
    """Put all sealed segments into one Parquet file, the first exposure of a user and arm; None if none is sealed.

    Killed at any moment, it leaves every exposure in the folder, some perhaps twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    with alone_in(folder):
        return _compacted(folder)


def erase_exposures(folder: Path, forgotten: Forgotten) -> int:
    """Delete the exposures of people before they were forgotten from segments that nobody writes; how many lines."""
    count = 0
    with alone_in(folder):
        for path in sorted([*folder.glob("*.parquet"), *folder.glob("*.jsonl"), *folder.glob(f"*{_OPEN}")]):
            if path.name.endswith(_OPEN) and (not path.exists() or is_held(path)):
                continue
            packed = path.suffix == ".parquet"
            table = pl.read_parquet(path) if packed else _parsed(path.read_bytes(), path)
            gone = forgotten.of_names(table["user_id"].unique())
            if not gone:
                continue
            until = table["user_id"].replace_strict(gone, default=None, return_dtype=pl.Int64)
            kept = table.filter((table["at"].dt.epoch("us") > until).fill_null(True))
            if kept.height == table.height:
                continue
            count += table.height - kept.height
            with atomic_file(path) as file:
                if packed:
                    kept.write_parquet(file, compression="zstd")
                else:
                    file.write("".join(map(_line, kept.iter_rows(named=True))).encode())
    return count


def _compacted(folder: Path) -> Path | None:
    sealed = sorted([*folder.glob("*.jsonl"), *folder.glob("*.parquet")])
    if not any(path.suffix == ".jsonl" for path in sealed):
        return None
    parts = [
        pl.read_parquet(path).select(list(_SCHEMA))
        if path.suffix == ".parquet"
        else _parsed(path.read_bytes(), path)
        for path in sealed
    ]
    keys = ["experiment", "user_id", "arm", "forced"]
    table = pl.concat(parts).sort("at").unique(keys, keep="first", maintain_order=True).select(list(_SCHEMA))
    out = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}.parquet"
    with atomic_file(out) as file:
        table.write_parquet(file, compression="zstd")
    for path in sealed:
        path.unlink()
    return out


def first_exposures(exposures: pl.DataFrame, experiment: str, arms: tuple[str, ...]) -> Exposed:
    """The users of an experiment with their arm and first exposure; who was seen in two arms, or forced, is left out.

    Args:
        exposures: what `read_exposures` gave, or a table like it.
        experiment: its name.
        arms: names of its arms, the control first.

    Raises:
        CaptionaryError: nobody was exposed, or the log names an arm that is not among `arms`.
    """
    mine = exposures.filter(pl.col("experiment") == experiment)
    unknown = set(mine["arm"].unique()) - set(arms)
    if unknown:
        rule = f"one of {', '.join(arms)}"
        raise bad_value("arm", sorted(unknown)[0], rule, where=f"exposures of {experiment}")
    forced = mine.filter(pl.col("forced"))["user_id"].unique()
    drawn = mine.filter(~pl.col("user_id").is_in(forced.implode()))
    users = (
        drawn.sort("at")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("arm").first(), pl.col("at").first(), seen=pl.col("arm").n_unique())
    )
    clean = users.filter(pl.col("seen") == 1)
    if not clean.height:
        raise bad_value("exposures", "none", "one user at least", where=f"experiment {experiment}")
    return Exposed(
        experiment=experiment,
        arms=arms,
        users=clean["user_id"],
        arm=clean["arm"].replace_strict(list(arms), list(range(len(arms))), return_dtype=pl.Int8).to_numpy(),
        first=clean["at"].dt.epoch("us").to_numpy(),
        contaminated=users.height - clean.height,
        forced=len(forced),
        repeated=drawn.height - users.height,
    )


def _line(exposure: dict[str, Any]) -> str:
    at = exposure["at"].astimezone(UTC).isoformat(timespec="microseconds")
    return json.dumps(exposure | {"at": at}, ensure_ascii=False) + "\n"


def _parsed(text: bytes, path: Path) -> pl.DataFrame:
    whole = text[: text.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            row["at"] = datetime.fromisoformat(row["at"])
            rows.append({name: row[name] for name in _SCHEMA})
        except (ValueError, KeyError, TypeError):
            shown = line.decode(errors="replace")
            raise bad_value("exposure", shown, "an exposure", where=f"{path}, line {number}") from None
    return pl.DataFrame(rows, schema=_SCHEMA)
