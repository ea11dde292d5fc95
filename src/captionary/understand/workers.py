"""Decoding beside the captioner: in threads of this process, or in worker processes of their own.

    DecodeTask ──▶ read, check the digest, decode, shrink, sign ──▶ Decoded            (`decode_task`, anywhere)
    thread ──task by pipe──▶ worker process ──pixels by pipe──▶ thread                 (`WorkerPool`)

Pillow lets other threads run while it decodes, so threads suffice on few cores. Processes pay where the captioner
leaves cores idle, and they shield the job: a file that crashes or hangs its decoder costs one worker, not the run.
A worker ends by itself when its pipe closes, which a parent's `kill -9` does too: none is left behind.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from captionary.understand.media import MediaError, MediaLimits, digest_bytes, read_bytes
from captionary.understand.similar import Sign, sign_of
from captionary.understand.views import Reader, View

__all__ = ["DecodeTask", "Decoded", "WorkerPool", "automatic_processes", "decode_task"]

_FEW_PICTURES = 2000
"""Below it, starting worker processes costs more than they save."""
_PATIENCE_SECONDS = 60.0
"""How long one picture may take; far beyond any within the limits, on a busy machine too."""


class DecodeTask(NamedTuple):
    """One view to read."""

    path: Path
    digest: str
    """Of the file when it was listed; a file that has changed since is refused."""
    view: View
    size: int
    limits: MediaLimits
    reader: Reader
    sign: bool
    """Whether to sign the picture for the search of near-duplicates."""


class Decoded(NamedTuple):
    """What became of it."""

    image: Image.Image
    sign: Sign | None


def automatic_processes(pictures: int) -> int:
    """Worker processes where none are asked for: 0, which means threads, on up to 4 cores or for a short job."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if os.name == "nt" or cores <= 4 or pictures < _FEW_PICTURES else min(8, cores // 4)


def decode_task(task: DecodeTask) -> Decoded:
    """Read one view.

    Raises:
        MediaError: and no other exception.
    """
    data = read_bytes(task.path, task.limits)
    if digest_bytes(data) != task.digest:  # its caption would be kept under the digest of other bytes
        raise MediaError("changed", str(task.path))
    try:
        image = task.reader(data, task.view, task.size, task.limits)
        return Decoded(image, sign_of(image) if task.sign else None)
    except MediaError:
        raise
    except MemoryError:
        raise MediaError("out_of_memory", str(task.path)) from None
    except Exception as error:  # a reader may be anybody's code
        raise MediaError("corrupt", str(task.path), f"{type(error).__name__}: {error}") from None


class WorkerPool:
    """`decode_task` in `processes` processes; called from as many threads, each of which waits for its own.

    Processes start when they are first needed, without the program's main module, so that a script needs no guard
    and a worker no torch. One that dies or hangs is replaced.
    """

    def __init__(self, processes: int, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self.processes = processes
        self._patience = patience_seconds
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)

    def __call__(self, task: DecodeTask) -> Decoded:
        """Have a worker read one view; raises MediaError."""
        worker = self._idle.get()
        keep: _Worker | None = None
        try:
            worker = worker or _Worker()
            decoded = worker.decode(task, self._patience)
            keep = worker
            return decoded
        except MediaError:
            keep = worker
            raise
        except TimeoutError:
            detail = f"no picture within {self._patience:.0f} s"
            raise MediaError("unreadable", str(task.path), detail) from None
        except (EOFError, OSError):  # the worker died; out of memory, the kernel sends signal 9
            code = worker.end() if worker else None
            reason = "out_of_memory" if code in (None, -9) else "corrupt"
            raise MediaError(reason, str(task.path), f"the decoder's process ended with {code}") from None
        finally:
            if worker is not None and keep is None:
                worker.end()
            self._idle.put(keep)

    def close(self) -> None:
        """End the workers. None may be at work."""
        for _ in range(self.processes):
            with suppress(queue.Empty):
                worker = self._idle.get_nowait()
                if worker is not None:
                    worker.end()


class _Worker:
    """A worker process, and this end of its pipe."""

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        code = f"from captionary.understand.workers import _serve; _serve({theirs.fileno()})"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C at the terminal is the parent's to handle
            )

    def decode(self, task: DecodeTask, patience_seconds: float) -> Decoded:
        """Raises MediaError, TimeoutError, or where the worker is gone EOFError or OSError."""
        self._pipe.send(task)
        if not self._pipe.poll(patience_seconds):
            raise TimeoutError
        kind, *found = self._pipe.recv()
        if kind == "refused":
            raise MediaError(*found)
        mode, size, sign = found
        return Decoded(Image.frombytes(mode, size, self._pipe.recv_bytes()), sign)

    def end(self) -> int | None:
        """End the process; returns its exit code, -9 for what had to be killed."""
        if self._process.poll() is None and not self._pipe.closed:
            self._pipe.close()
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(0.5)
            self._process.send_signal(signal.SIGKILL)
        self._pipe.close()
        return self._process.wait()


def _serve(descriptor: int) -> None:
    """What a worker does: one task after the other, until the other end of the pipe is closed."""
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd files; what matters becomes a reason
    pipe = Connection(descriptor)
    # BrokenPipe and EOF alike: the parent has gone, and so does its worker.
    with suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            try:
                image, sign = decode_task(task)
            except MediaError as error:
                pipe.send(("refused", error.reason, str(task.path), error.detail))
                continue
            pipe.send(("decoded", image.mode, image.size, sign))
            pipe.send_bytes(image.tobytes())
