"""The caption job on Ray: the same `CaptionJob`, one in each actor of a pool, checkpointed through one store.

    views ──blocks──▶ Ray Data ──map_batches──▶ CaptionActor × n ──what became of each view──▶ the driver's job
                                                    │ get, claim, put (by RPC)
                                                StoreActor, on the driver's node ──▶ captions.sqlite

SQLite must not be shared over a network file system, so one actor beside the file does all reading and writing; a
commit holds a batch, which keeps that actor far from being the limit (`docs/scale.md`). An actor that dies loses its
uncommitted batch only: Ray starts another one for the block, and that finds in the store what was committed before.
A cap on what the captioner may spend is the job's: the same actor keeps its account, in a file beside the store.
"""

from __future__ import annotations

import inspect
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from captionary.errors import CaptionaryError, bad_value
from captionary.understand.captioner import Captioner, StoppedError
from captionary.understand.job import CaptionJob, JobOptions
from captionary.understand.media import MediaError
from captionary.understand.spending import Account, CapReachedError, Reserve, Spent
from captionary.understand.spending_shared import Ledger, SharedCap
from captionary.understand.store import CaptionStore
from captionary.understand.views import View

__all__ = ["CaptionActor", "RayEngine", "RemoteAccount", "RemoteStore"]

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("uri", "digest", "reason", "detail", "key", "stopped")]
    + [("frame", pa.int64())]
)
"""What an actor tells of each view: the file's digest, or why there is none, and why there is no record of the view;
or, in a row of its own, why its captioner can no longer go on."""
_STORE_METHODS = frozenset(
    name for name, _ in inspect.getmembers(CaptionStore, inspect.isfunction) if not name.startswith("_")
) - {"rows", "close"}


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Where and how wide a job runs on Ray; it connects to a running cluster, or starts one on this machine."""

    load: Callable[[], Captioner] | None = None
    """Builds the captioner inside each actor; None sends the job's own, which must then be picklable."""
    actors: int = 2
    """Captioners at once, ≥ 1."""
    gpus_per_actor: float = 0.0
    """0 for captioners that run on the CPU."""
    cpus_per_actor: float = 1.0
    """Decoding included."""
    block: int = 512
    """Views that an actor is handed together, ≥ 1; a lost actor's block is looked up again, not captioned again."""
    address: str | None = None
    """Of the cluster, as for `ray.init`; None for the one that this process is connected to, else a local one."""
    init: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `ray.init`."""

    def __post_init__(self) -> None:
        for name in ("actors", "block"):
            if getattr(self, name) < 1:
                raise bad_value(f"ray: {name}", getattr(self, name), ">= 1")
        for name in ("gpus_per_actor", "cpus_per_actor"):
            if getattr(self, name) < 0:
                raise bad_value(f"ray: {name}", getattr(self, name), ">= 0")

    def run(self, job: CaptionJob, views: Sequence[View]) -> None:
        """`CaptionJob.run` over the cluster; afterwards the job knows what it would know had it run here.

        Media must be readable under the same paths on all nodes.

        Raises:
            CaptionaryError: Ray is not installed, the store fails, or the cluster gives the job up.
        """
        try:
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        except ImportError:
            todo = "pip install 'captionary[ray]'"
            raise bad_value("engine", "ray", "installed", where="no module ray", todo=todo) from None
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, **self.init)
        unique = list(dict.fromkeys(views))
        uses = dict.fromkeys(unique, 0)
        for view in views:
            uses[view] += 1
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # It keeps no state but the file, so that it may be started again, and every call be repeated.
        keeper: Any = (
            ray.remote(StoreActor)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
            .remote(str(job.store.path.resolve()), uuid.uuid4().hex, _account(job.captioner))
        )
        stopped, finished = "", False
        try:
            ray.get(keeper.made.remote())  # it runs before anybody else holds a handle of it
            for told in self._results(ray, keeper, job, unique):
                stopped = stopped or next(filter(None, told["stopped"]), "")
                if not stopped:
                    _learn(job, told, uses)
            if stopped:  # and not before: what the others had asked for is kept
                raise StoppedError(stopped)
            # From the store's actor: those that died have taken with them what they knew.
            made, reused = ray.get(keeper.made.remote())
            job.made |= made
            job.reused |= reused
            finished = True
        except CaptionaryError:
            raise
        except Exception as error:
            cause = _store_error(error)
            if cause is not None:
                raise cause from None
            found = " ".join(str(error).split())[-300:]
            todo = "run again: what was captioned is kept"
            raise bad_value("engine", "ray", "a cluster that finishes", where=found, todo=todo) from None
        finally:
            _close(ray, keeper, job, finished)

    def _results(
        self, ray: Any, keeper: Any, job: CaptionJob, views: Sequence[View]
    ) -> Iterator[dict[str, Any]]:
        if not views:
            return
        # Enough blocks for all actors to have work to the end, none larger than `block`. They are cut here and not by
        # `repartition`, whose tasks would wait for the processors that the actors hold.
        size = max(1, min(self.block, -(-len(views) // (4 * self.actors))))
        blocks = [
            pa.table(
                {
                    "uri": [view.uri for view in views[start : start + size]],
                    "frame": pa.array(
                        [_number(view.frame) for view in views[start : start + size]], pa.int64()
                    ),
                }
            )
            for start in range(0, len(views), size)
        ]
        captioner = None if self.load is not None else ray.put(job.captioner)
        told = ray.data.from_arrow(blocks).map_batches(
            CaptionActor,
            fn_constructor_kwargs={
                "root": str(job.root.resolve()),
                "keeper": keeper,
                "options": job.options,
                "load": self.load,
                "captioner": captioner,
                "started": job.started,
                "capped": _account(job.captioner) is not None,
            },
            batch_size=None,  # a block is a batch
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=self.actors),
            num_cpus=self.cpus_per_actor,
            num_gpus=self.gpus_per_actor or None,
        )  # an actor that dies is started again and its block repeated, without limit: Ray Data's default
        for batch in told.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield batch.to_pydict()


class CaptionActor:
    """One captioner of the pool; Ray makes one in each process and calls it block by block."""

    def __init__(
        self,
        *,
        root: str,
        keeper: Any,
        options: JobOptions,
        load: Callable[[], Captioner] | None,
        captioner: Any,
        started: Any,
        capped: bool = False,
    ) -> None:
        import ray

        self.root, self.options, self.started = Path(root), options, started
        self.captioner: Captioner = load() if load is not None else ray.get(captioner)
        # The same name after a restart: what the process before it had claimed is given up.
        self.store = RemoteStore(keeper, str(ray.get_runtime_context().get_actor_id()))
        self._stopped = ""
        if capped:
            _share(self.captioner, keeper)

    def __call__(self, block: pa.Table) -> pa.Table:
        """What became of a block's views, one row each, as of `_SCHEMA`."""
        if self._stopped:
            return self._given_up()
        views = [
            View(uri, None if frame < 0 else frame)
            for uri, frame in zip(block["uri"].to_pylist(), block["frame"].to_pylist(), strict=True)
        ]
        with tqdm(disable=True) as bar:
            job = CaptionJob(self.root, self.captioner, self.store, self.options, bar)  # type: ignore[arg-type]
            job.started = self.started
            try:
                job.run(views)
            except StoppedError as error:
                self._stopped = str(error)
                return self._given_up()
        rows = []
        for view in views:
            key = job.key(view)
            unread = job.unread.get(view.uri)
            reason, detail = (
                (unread.reason, unread.detail) if unread else job.not_kept.get(key or "", ("", ""))
            )
            digest = job.digests.get(view.uri)
            rows.append(
                {
                    "uri": view.uri,
                    "digest": digest,
                    "reason": reason,
                    "detail": detail,
                    "key": key,
                    "frame": _number(view.frame),
                }
            )
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

    def _given_up(self) -> pa.Table:
        return pa.Table.from_pylist([{"stopped": self._stopped}], schema=_SCHEMA)


class StoreActor:
    """The one process that has the store's file open, for all actors of a job, and the account of what they spend."""

    def __init__(self, path: str, job: str = "", account: Account | None = None) -> None:
        self.path = Path(path)
        self._job, self._account = job, account
        self._ledger: Ledger | None = None
        self._stores: dict[str, CaptionStore] = {}  # by actor: claims belong to one each
        self._incarnations: dict[str, str] = {}
        self._made: set[str] = set()
        self._reused: set[str] = set()

    def call(self, who: str, incarnation: str, name: str, args: Any, kwargs: Any) -> Any:
        """A method of `CaptionStore`, for one actor; what it raises as `CaptionaryError` is returned."""
        try:
            if self._incarnations.get(who) != incarnation and who in self._stores:
                self._stores.pop(who).close()
            self._incarnations[who] = incarnation
            if who not in self._stores:
                self._stores[who] = CaptionStore(self.path)
            found = getattr(self._stores[who], name)(*args, **kwargs)
            if name == "put_many":
                told = [record for record in args[0] if record.status == "ok"]
                self._made.update(record.media_digest for record in told if not record.source)
                self._reused.update(record.media_digest for record in told if record.source)
            return found
        except CaptionaryError as error:
            return _Failure(str(error))

    def made(self) -> tuple[set[str], set[str]]:
        """Keys of the views that were captioned, and that got a near-duplicate's caption."""
        return self._made, self._reused

    def spend(self, name: str, *args: Any) -> Any:
        """A method of the job's `Ledger`; what it raises as `CaptionaryError` is returned."""
        try:
            return getattr(self._open_ledger(), name)(*args)
        except CaptionaryError as error:
            return _Failure(str(error), isinstance(error, CapReachedError))

    def close(self) -> Account | None:
        """Give up all claims and close the account, where there is one; as it then is."""
        while self._stores:
            self._stores.popitem()[1].close()
        if self._account is not None:
            ledger, self._ledger = self._open_ledger(), None
            self._account = ledger.end()
        return self._account

    def _open_ledger(self) -> Ledger:
        if self._ledger is None:
            assert self._account is not None
            path = self.path.with_suffix(".spending.sqlite")
            self._ledger = Ledger(path, self._job, self._account)
        return self._ledger


@dataclass(frozen=True)
class _Failure:
    """An error of the store or the ledger on its way between processes."""

    message: str
    cap: bool = False
    """Whether it is a cap that was reached."""


_INCARNATIONS = count()


class RemoteStore:
    """A `CaptionStore` behind the store actor: the part of it that a job uses, with the same meaning."""

    def __init__(self, keeper: Any, who: str) -> None:
        self._keeper, self._who = keeper, who
        self._incarnation = f"{time.time_ns()}-{next(_INCARNATIONS)}"

    def __getattr__(self, name: str) -> Any:
        if name not in _STORE_METHODS:
            raise AttributeError(name)

        def method(*args: Any, **kwargs: Any) -> Any:
            import ray

            sent = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
            found = ray.get(self._keeper.call.remote(self._who, self._incarnation, name, sent, kwargs))
            if isinstance(found, _Failure):
                raise CaptionaryError(found.message)
            return found

        return method


class RemoteAccount:
    """The job's account behind the store actor: what `SharedCap` asks of it."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    def ask(self, name: str) -> bool:
        """See `Ledger.ask`."""
        return bool(self._call("ask", name))

    def settle(self, name: str, used: Reserve | None) -> None:
        """See `Ledger.settle`."""
        self._call("settle", name, used)

    def spent(self) -> Spent:
        """See `Ledger.spent`."""
        return Spent(*self._call("spent"))

    def _call(self, name: str, *args: Any) -> Any:
        import ray

        found = ray.get(self._keeper.spend.remote(name, *args))
        if isinstance(found, _Failure):
            raise (CapReachedError if found.cap else StoppedError)(found.message)
        return found


def _account(captioner: object) -> Account | None:
    """What a captioner may spend; None where it may spend anything, or nothing."""
    account = getattr(captioner, "account", None)
    return account if isinstance(account, Account) and account.config.capped else None


def _close(ray: Any, keeper: Any, job: CaptionJob, finished: bool) -> None:
    """Close the account and end the store's actor, whatever happens; only a finished job can fail here."""
    try:
        account = ray.get(keeper.close.remote())
        if account is not None:
            job.captioner.account.spent = account.spent  # type: ignore[attr-defined]
    except Exception as error:
        if finished:  # else what ended the job is what its user must hear
            raise _store_error(error) or error from None
    finally:
        ray.kill(keeper)


def _share(captioner: Any, keeper: Any) -> None:
    captioner.share(SharedCap(RemoteAccount(keeper)))


def _number(frame: int | None) -> int:
    return -1 if frame is None else frame


def _learn(job: CaptionJob, told: dict[str, Any], uses: Mapping[View, int]) -> None:
    """Take over what an actor found out about a block's views."""
    columns = [told[name] for name in ("uri", "frame", "digest", "reason", "detail", "key")]
    for uri, frame, digest, reason, detail, key in zip(*columns, strict=True):
        view = View(uri, None if frame < 0 else frame)
        if digest is None:
            job.unread[uri] = MediaError(reason, uri, detail)
        else:
            job.digests[uri] = digest
            if reason:
                job.not_kept[key] = (reason, detail)
        job.bar.update(uses[view])


def _store_error(error: BaseException | None) -> CaptionaryError | None:
    """The store's own error, at the end of the chain of Ray's exceptions around it; None where it is another."""
    found, depth = None, 0
    while error is not None and depth < 20:
        if isinstance(error, CaptionaryError):
            found = CaptionaryError(str(error).splitlines()[-1])
        error, depth = getattr(error, "cause", None) or error.__cause__, depth + 1
    return found
