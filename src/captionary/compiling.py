"""How the package's kernels are compiled, and kept on disk for the processes to come."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile

__all__ = ["compiled"]


def compiled(function: Callable[..., Any], *, fastmath: Collection[str] = ()) -> Any:
    """Compile with numba: cached on disk where a folder can be written, else anew in each process.

    Args:
        function: the kernel.
        fastmath: liberties of LLVM with floating point; (): none, sums have the order that is written.
    """
    loose = set(fastmath)
    try:
        kernel: Any = numba.njit(cache=True, nogil=True, fastmath=loose)(function)
    except RuntimeError:  # numba: "no locator available"
        return numba.njit(nogil=True, fastmath=loose)(function)
    with suppress(AttributeError, TypeError):  # a numba that keeps them in another way goes on with its own
        cache, own = kernel._cache, kernel._cache._cache_file
        cache._cache_file = _FilePerSignature(own._cache_path, cache._impl.filename_base, own._source_stamp)
    return kernel


class _FilePerSignature(IndexDataCacheFile):
    """A file for each kind of arguments, named after all that its machine code hangs on.

    numba numbers such files in an index. Processes that begin together on a cold cache, as trainers and workers do, may
    take the same number for different kinds of arguments: then one of them runs, now and ever after, machine code made
    for arguments of another layout. What cannot be read is compiled again, and a full disk costs the cache alone.
    """

    def flush(self) -> None:
        """Nothing: what is out of date has another name."""

    def save(self, key: Any, data: Any) -> None:
        with suppress(OSError):
            self._save_data(self._name(key), data)

    def load(self, key: Any) -> Any:
        try:
            return self._load_data(self._name(key))
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    def _name(self, key: Any) -> str:
        said = repr((self._version, self._source_stamp, key))
        number = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=12).digest(), "big")
        return self._data_name(number)  # type: ignore[no-any-return]
