"""The embedded engine: LMDB, one folder, any number of readers in any number of processes, one writer at a time.

Readers wait for nobody. The map grows as it fills; where the disk is full, the update is undone and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from captionary.errors import bad_value
from captionary.online.keyvalue import Reader, StoreFullError, StoreUnavailableError, Transaction

__all__ = ["LmdbEngine"]

T = TypeVar("T")

_SEQUENCE = b"\0sequence"
_FIRST_MAP = 64 << 20
_READERS = 512
_PAGE = 10_000


class LmdbEngine:
    """See `keyvalue.Engine`.

    Args:
        folder: made where absent.
        readonly: open without the right to write; the folder must be a store.
        map_size: bytes of the map at first; it doubles as it fills.
        most_bytes: the map does not grow beyond this; None: as long as the disk has room.

    Raises:
        CaptionaryError: the package is missing; the folder is no store or cannot be used.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        readonly: bool = False,
        map_size: int = _FIRST_MAP,
        most_bytes: int | None = None,
    ) -> None:
        try:
            import lmdb
        except ModuleNotFoundError:
            todo = "pip install 'captionary[serve]'"
            raise bad_value("package lmdb", "missing", "installed", todo=todo) from None
        self._lmdb = lmdb
        self.folder, self.writable = Path(folder), not readonly
        self._most = most_bytes
        self._growing = threading.Condition()
        self._users, self._resizing = 0, False
        if readonly and not (self.folder / "data.mdb").is_file():
            raise bad_value("store", str(folder), "a folder that holds an online store")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open(map_size)
        except (lmdb.Error, OSError) as error:
            rule = "a folder that holds, or can hold, an online store"
            raise bad_value("store", str(folder), rule, where=str(error)) from None
        self._db.reader_check()  # slots of readers that were killed

    def read(self, keys: Sequence[bytes]) -> tuple[int, list[bytes | None]]:
        """See `keyvalue.Engine.read`."""

        def work(reader: Reader) -> tuple[int, list[bytes | None]]:
            return reader.sequence, reader.get_many(keys)

        return self.view(work)

    def view(self, work: Callable[[Reader], T]) -> T:
        """See `keyvalue.Engine.view`."""
        while True:
            try:
                with self._using(), self._db.begin(db=self._values) as inner:
                    return work(_Transaction(inner, self._values, self._sets, 0))
            except self._lmdb.MapResizedError:
                self._resize(0)  # another process has made the map larger
            except self._lmdb.Error as error:
                raise self._failure(error) from None

    def update(self, work: Callable[[Transaction], T]) -> T:
        """See `keyvalue.Engine.update`."""
        while True:
            size = self._db.info()["map_size"]
            try:
                with self._using(), self._db.begin(db=self._values, write=True) as inner:
                    transaction = _Transaction(inner, self._values, self._sets, 1)
                    result = work(transaction)
                    inner.put(_SEQUENCE, transaction.sequence.to_bytes(8, "big"))
                return result
            except self._lmdb.MapFullError:
                self._grow(size)
            except self._lmdb.MapResizedError:
                self._resize(0)
            except self._lmdb.Error as error:
                raise self._failure(error) from None

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[bytes]:
        """See `keyvalue.Engine.scan`."""

        def page(start: bytes) -> list[bytes]:
            found: list[bytes] = []
            with self._using(), self._db.begin(db=self._values) as inner:
                cursor = inner.cursor()
                if not cursor.set_range(start):
                    return found
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(prefix) or len(found) == _PAGE:
                        break
                    found.append(key)
            return found

        start = max(prefix, after + b"\0" if after else prefix)
        while found := page(start):
            yield from found
            start = found[-1] + b"\0"

    def close(self) -> None:
        """See `keyvalue.Engine.close`."""
        self._db.close()

    def _open(self, map_size: int) -> None:
        self._db = self._lmdb.open(
            str(self.folder),
            map_size=max(map_size, _map_size(self.folder)),
            readonly=not self.writable,
            max_dbs=2,
            max_readers=_READERS,
            meminit=False,
            readahead=False,
        )
        self._values = self._db.open_db(b"values", create=self.writable)
        self._sets = self._db.open_db(b"sets", create=self.writable)

    def _using(self) -> _Use:
        return _Use(self)

    def _grow(self, size: int) -> None:
        """A larger map, unless another thread or process has made one."""
        wanted = 2 * size
        if self._most is not None:
            wanted = min(wanted, self._most)
        if wanted <= size:
            todo = "give the store more room"
            where = f"its map of {size:,} bytes is full; nothing of the update was kept"
            raise StoreFullError(
                str(bad_value("store", str(self.folder), "larger than it may be", where=where, todo=todo))
            )
        with self._growing:
            if self._db.info()["map_size"] > size:
                return
        self._resize(wanted)

    def _resize(self, size: int) -> None:
        """LMDB's rule: no transaction of this process is open while the map changes."""
        try:
            self._alone(lambda: self._db.set_mapsize(size))
        except self._lmdb.Error as error:
            raise self._failure(error) from None

    def _alone(self, work: Callable[[], None]) -> None:
        """Do what no transaction of this process may see."""
        with self._growing:
            self._growing.wait_for(lambda: not self._resizing)
            self._resizing = True
            try:
                self._growing.wait_for(lambda: self._users == 0)
                work()
            finally:
                self._resizing = False
                self._growing.notify_all()

    def _reopen(self) -> None:
        size = self._db.info()["map_size"]
        self._db.close()
        self._open(size)

    def _failure(self, error: Exception) -> StoreUnavailableError:
        said = str(error)
        if isinstance(error, self._lmdb.PanicError):  # what is on the disk is whole, what is in memory is not
            self._alone(self._reopen)
        # A disk that fills up in the middle of a write shows as an error of input and output.
        full = isinstance(error, self._lmdb.DiskError) or "Input/output" in said or "File too large" in said
        kind = StoreFullError if full else StoreUnavailableError
        rule, todo = ("on a disk with space left", "free some space") if full else ("usable", None)
        where = f"LMDB: {error}; nothing of the update was kept"
        return kind(str(bad_value("store", str(self.folder), rule, where=where, todo=todo)))


class _Use:
    """Holds off a change of the map's size while a transaction of this process is open."""

    def __init__(self, engine: LmdbEngine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        engine = self._engine
        with engine._growing:
            engine._growing.wait_for(lambda: not engine._resizing)
            engine._users += 1

    def __exit__(self, *_: object) -> None:
        engine = self._engine
        with engine._growing:
            engine._users -= 1
            if not engine._users:
                engine._growing.notify_all()


class _Transaction:
    """One LMDB transaction as a `Reader` (ahead = 0) or a `Transaction` (1)."""

    def __init__(self, inner: Any, values: Any, sets: Any, ahead: int) -> None:
        self._inner, self._values, self._sets, self._ahead = inner, values, sets, ahead

    @property
    def sequence(self) -> int:
        return int.from_bytes(self._inner.get(_SEQUENCE) or b"", "big") + self._ahead

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        get = self._inner.get
        return [get(key) for key in keys]

    def put(self, key: bytes, value: bytes) -> None:
        self._inner.put(key, value)

    def delete(self, key: bytes) -> None:
        self._inner.delete(key)

    def members(self, key: bytes, most: int | None = None) -> list[bytes]:
        stem = _stem(key)
        found: list[bytes] = []
        cursor = self._inner.cursor(db=self._sets)
        if cursor.set_range(stem):
            for name in cursor.iternext(keys=True, values=False):
                if not name.startswith(stem) or (most is not None and len(found) >= most):
                    break
                found.append(name[len(stem) :])
        return found

    def add(self, key: bytes, member: bytes) -> None:
        self._inner.put(_stem(key) + member, b"", db=self._sets)

    def remove(self, key: bytes, member: bytes) -> None:
        self._inner.delete(_stem(key) + member, db=self._sets)


def _stem(key: bytes) -> bytes:
    """What the members of a set start with: no set's is the beginning of another's."""
    return len(key).to_bytes(2, "big") + key


def _map_size(folder: Path) -> int:
    """What is there must fit, or a reader sees nothing."""
    try:
        size = (folder / "data.mdb").stat().st_size
    except FileNotFoundError:
        return 0
    return -(-size // 4096) * 4096
