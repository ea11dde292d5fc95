"""What `serve.yaml` says: where everything is, which rankers are served to whom, and what a request may cost."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captionary.config import from_mapping, load_yaml, to_mapping
from captionary.errors import bad_value, nearest
from captionary.represent.profiles import ProfileConfig
from captionary.understand.remote import RemoteConfig

__all__ = ["LimitsConfig", "ServeConfig", "UploadConfig", "is_loopback", "load_serve"]


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What requests may cost, together and one by one: the service's memory and latency follow from these."""

    threads: int = 2
    """Threads that read features and score, >= 1: as many requests are worked on at once."""
    waiting: int = 16
    """Ranking requests that may wait for a thread, >= 0; one more is answered 503."""
    wait_ms: float = 20.0
    """A ranking request that has waited so long is answered 503, > 0."""
    rank_ms: float = 1000.0
    """A ranking request that takes so long in all is answered 503, > 0."""
    write_threads: int = 4
    """Threads for everything else that waits for disks and servers (events, uploads, profiles), >= 1."""
    writes_waiting: int = 64
    """Such requests that may wait for one of them, >= 0; one more is answered 503."""
    write_seconds: float = 30.0
    """Seconds for such a request in all, fetching remote media included, > 0."""
    read_seconds: float = 5.0
    """Seconds in which a client must have sent its request, > 0."""
    candidates: int = 1000
    """Of one request, >= 1."""
    events: int = 1000
    """Of one batch, >= 1."""
    body_bytes: int = 1 << 20
    """Of a request other than an upload, >= 1024."""
    store_ms: float = 100.0
    """Redis: a read of features that takes longer is given up, and the request answered by ids alone. > 0."""
    backlog: int = 100_000
    """Entries of the log's topics without an effect at which new ones are answered 503, >= 1."""
    drain_seconds: float = 5.0
    """After SIGTERM `/readyz` says no for so long before connections are refused, >= 0."""

    def __post_init__(self) -> None:
        least = {"threads": 1, "waiting": 0, "write_threads": 1, "writes_waiting": 0, "candidates": 1}
        least |= {"events": 1, "body_bytes": 1024, "backlog": 1, "drain_seconds": 0}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise bad_value(name, getattr(self, name), f">= {bound}")
        for name in ("wait_ms", "rank_ms", "write_seconds", "read_seconds", "store_ms"):
            if not 0 < getattr(self, name) < math.inf:
                raise bad_value(name, getattr(self, name), "> 0")


@dataclass(frozen=True, kw_only=True)
class UploadConfig:
    """Which media are taken."""

    max_bytes: int = 16 << 20
    """Of one upload with all its files, >= 1024."""
    max_pixels: int = 50_000_000
    """Of one picture, by its header, >= 1."""
    files: int = 8
    """Of one upload, >= 1."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """Which URIs `POST /items` may name; none by default."""

    def __post_init__(self) -> None:
        for name, bound in (("max_bytes", 1024), ("max_pixels", 1), ("files", 1)):
            if getattr(self, name) < bound:
                raise bad_value(name, getattr(self, name), f">= {bound}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """A service; paths are relative to the file."""

    rankers: dict[str, Path]
    """Name → folder that `captionary export` wrote."""
    run: Path | None = None
    """Configuration of the run that they are of: tokenizer, profiles, store, log, spool, request log and media are then
    those of `captionary ingest` with the same file, where they are not given here."""
    default: str = ""
    """Which of them ranks for users outside every experiment; may be left out where there is one."""
    tokenizer: Path
    """Folder of the tokenizer whose tokens the store holds."""
    profiles: ProfileConfig
    """As of the run that the rankers were trained in; event types must be named."""
    store: str = "online/store"
    """The online store: a path or `lmdb:PATH`, `redis://…`, `rediss://…`; `${NAME}` is taken from the environment."""
    log: str = "online/log.sqlite"
    """The durable log: a path or `sqlite:PATH`, `redis://…`, `rediss://…`; `${NAME}` as above."""
    spool: Path = Path("online/spool")
    """Folder of uploaded media."""
    combine: dict[str, float] = field(default_factory=dict)
    """Task → its weight in the combined score; absent: all tasks alike."""
    experiments: Path | None = None
    """`experiments.yaml`; absent: everybody gets `default`."""
    arms: dict[str, dict[str, str]] = field(default_factory=dict)
    """Experiment → arm → ranker; all experiments named here are of one layer."""
    exposures: Path = Path("online/exposures")
    """Folder of the exposure log."""
    decisions: Path = Path("online/decisions.jsonl")
    """Record of decisions: what `captionary ab monitor` stopped is stopped here."""
    requests: Path | None = Path("online/requests")
    """Folder of the request log; empty: none."""
    request_share: float = 0.01
    """Share of the ranking requests that are kept whole for `captionary verify`, 0 to 1."""
    captions: Path | None = None
    """File of a caption store, for the explorer's page on it."""
    media: Path | None = None
    """Folder below which the catalogue's media lie, for the explorer's pictures."""
    keys: Path | None = Path("online/keys.json")
    """File of API keys. Empty: no keys are asked for, which only a loopback address allows."""
    secret: Path = Path("online/secret")
    """File with the secret that signs the pages' cookies, made where absent; replicas share one."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8750
    """Port, 0 to 65535; 0: a free one."""
    hosts: tuple[str, ...] = ()
    """Names under which the service is reached, others are answered 400; none: all, and `localhost` without keys."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What requests may cost."""
    uploads: UploadConfig = field(default_factory=UploadConfig)
    """Which media are taken."""

    def __post_init__(self) -> None:
        if not self.rankers:
            raise bad_value("rankers", "none", "one at least", todo="captionary export CONFIG")
        if not self.default and len(self.rankers) == 1:
            object.__setattr__(self, "default", next(iter(self.rankers)))
        if self.default not in self.rankers:
            raise bad_value("default", self.default or "(absent)", nearest(self.default, self.rankers))
        for experiment, arms in self.arms.items():
            for arm, ranker in arms.items():
                if ranker not in self.rankers:
                    where = f"arms: {experiment}: {arm}"
                    raise bad_value("ranker", ranker, nearest(ranker, self.rankers), where=where)
        if self.arms and self.experiments is None:
            raise bad_value("experiments", "(absent)", "given, as arms are")
        if not 0 <= self.request_share <= 1:
            raise bad_value("request_share", self.request_share, "0 to 1")
        if not 0 <= self.port <= 65535:
            raise bad_value("port", self.port, "0 to 65535")
        for task, weight in self.combine.items():
            if not math.isfinite(weight):
                raise bad_value(f"combine: {task}", weight, "finite")
        if self.keys is None and not is_loopback(self.host):
            todo = "captionary keys new NAME --scopes rank,events --file online/keys.json"
            raise bad_value("keys", "(absent)", f"given where others reach {self.host}", todo=todo)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_serve(path: Path, **changes: object) -> ServeConfig:
    """Read `serve.yaml`; relative paths are made those below its folder, `${NAME}` is taken from the environment.

    Args:
        path: the file.
        changes: values in the place of the file's, such as `port`.

    Raises:
        CaptionaryError: an unknown key, a value that is none, an environment variable that is not set.
    """
    said = load_yaml(path) | {name: value for name, value in changes.items() if value is not None}
    if isinstance(said.get("run"), str):
        said = _of_run(path.parent / said["run"]) | said
    config = from_mapping(ServeConfig, said, where=str(path))
    return _placed(config, path.parent)


def _of_run(path: Path) -> dict[str, Any]:
    """What a run's live side says, as `serve.yaml` would."""
    from captionary.online.site import Site
    from captionary.settings import load_run

    run = load_run(path)
    site = Site(run)

    def whole(place: Path | str) -> str:
        return str(Path(place).resolve())

    return {
        "tokenizer": whole(run.folder / "tokens" / site.letter),
        "profiles": to_mapping(site.profiles),
        "store": whole(site.store_url),
        "log": whole(site.log_url),
        "spool": whole(site.spool_folder),
        "requests": whole(site.requests_folder),
        "media": whole(site.dataset.root),
        "captions": whole(run.runs / "captions.sqlite"),
    }


def _placed(config: ServeConfig, folder: Path) -> ServeConfig:
    """`config` with paths below `folder` and variables filled in."""

    def at(value: Path | None) -> Path | None:
        return None if value is None else folder / value

    names = ("tokenizer", "spool", "experiments", "exposures", "decisions", "requests", "captions", "media")
    paths = {name: at(getattr(config, name)) for name in (*names, "keys", "secret", "run")}
    rankers = {name: folder / place for name, place in config.rankers.items()}
    urls = {name: _url(getattr(config, name), name, folder) for name in ("store", "log")}
    return dataclasses.replace(config, rankers=rankers, **paths, **urls)  # type: ignore[arg-type]


def _url(value: str, name: str, folder: Path) -> str:
    try:
        filled = string.Template(value).substitute(os.environ)
    except KeyError as error:
        raise bad_value(f"environment variable {error.args[0]}", "(absent)", "set", where=name) from None
    except ValueError:
        raise bad_value(name, value, "with a name in each ${}, and $$ for a dollar") from None
    scheme, colon, rest = filled.partition(":")
    if colon and scheme in ("lmdb", "sqlite"):
        return f"{scheme}:{folder / rest}"
    return filled if "://" in filled else str(folder / filled)
