"""How the package's kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numba

__all__ = ["compiled"]


def compiled(function: Callable[..., Any], *, fastmath: Collection[str] = ()) -> Any:
    """Compile with numba: cached on disk where a folder can be written, else anew in each process.

    Args:
        function: the kernel.
        fastmath: liberties of LLVM with floating point; (): none, sums have the order that is written.
    """
    loose = set(fastmath)
    try:
        return numba.njit(cache=True, nogil=True, fastmath=loose)(function)
    except RuntimeError:  # numba: "no locator available"
        return numba.njit(nogil=True, fastmath=loose)(function)
