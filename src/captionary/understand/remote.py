"""Fetch remote media: nothing unless a list allows it, nothing from inside the network, nothing without end.

    uri ──allow-list──▶ http(s): resolve once ──every address public?──▶ connect to those ──3xx──▶ again, ≤ 3 times
              └───────▶ s3, gs, az …: fsspec's file system of that store                       └──▶ bytes ≤ limit

Everything that can be wrong is a `MediaError` with a reason of `docs/captions.md`; the rules are in `docs/security.md`.
What comes back is bytes of unknown kind: the caller's decoder tells what they are, no header of the server does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from captionary.errors import bad_value, nearest
from captionary.understand.addresses import Address, is_public, numeric
from captionary.understand.refusals import LIMITS, MediaError

if TYPE_CHECKING:
    import aiohttp
    import yarl

__all__ = ["RemoteConfig", "fetch", "is_remote"]

_WEB = ("http", "https")
_STORES = ("abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "memory", "oci", "oss", "s3", "s3a")
"""fsspec's object stores, and its store in this process's memory. No local, chained, archive or shell file system."""
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ENTRY = re.compile(r"([a-z][a-z0-9]*)://((?:\*\.)?[^\s*/?#@\\]+)(/[^\s?#\\]*)?")
_CHUNK = 1 << 16
_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """Which remote media may be fetched, and what one may cost."""

    allow: tuple[str, ...] = ()
    """Places such as `https://images.example.com`, `https://*.example.com/catalogue`, `s3://bucket/folder`;
    an entry allows what is below it. None are allowed by default."""
    max_bytes: int = LIMITS.max_bytes
    """Of one file, ≥ 1. Counted as it arrives."""
    connect_timeout_s: float = 5.0
    """Seconds to connect, > 0; http and https."""
    read_timeout_s: float = 10.0
    """Seconds without a byte, > 0; http and https."""
    timeout_s: float = 60.0
    """Seconds for a file in all, redirects included, > 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow", tuple(self.allow))
        for entry in self.allow:
            match = _ENTRY.fullmatch(entry)
            if match is None or "::" in entry.replace("[::", "[", 1):
                raise bad_value(
                    "allow", entry, "like https://HOST, https://*.HOST/FOLDER or s3://BUCKET/FOLDER"
                )
            if match[1] not in (*_WEB, *_STORES):
                raise bad_value("allow: scheme", match[1], nearest(match[1], (*_WEB, *_STORES)))
            if match[2].startswith("*.") and (match[1] not in _WEB or match[2].count(".") < 2):
                raise bad_value("allow", entry, "a wildcard below a named domain, with http or https")
        for name in ("max_bytes", "connect_timeout_s", "read_timeout_s", "timeout_s"):
            value = getattr(self, name)
            if not value > 0:
                raise bad_value(name, value, "> 0")


class _Network(NamedTuple):
    """How names become addresses, and which of them may be connected to. Tests put their own here."""

    resolve: Callable[[str, int], Awaitable[Sequence[str]]]
    may_connect: Callable[[Address], bool]


def is_remote(uri: str) -> bool:
    """Whether a media entry names another place than this machine's files."""
    scheme = _URI.match(uri)
    return scheme is not None and scheme[1].lower() != "file"


def fetch(uri: str, config: RemoteConfig) -> bytes:
    """The content of a remote file.

    Args:
        uri: `https://…`, or an object store's `s3://bucket/key` (its client and credentials are fsspec's matter).
        config: what is allowed.

    Raises:
        MediaError: `remote_not_allowed`, `private_address`, `redirect_refused`, `too_large`, `timeout`,
            `missing` or `remote_error`.
        CaptionaryError: a package that the scheme needs is not installed.
    """
    return _fetch(uri, config, _Network(_resolve, is_public))


def _fetch(uri: str, config: RemoteConfig, network: _Network) -> bytes:
    scheme = _URI.match(uri)
    kind = scheme[1].lower() if scheme else ""
    if kind in _WEB:
        return _fetch_web(uri, config, network)
    if kind in _STORES:
        return _fetch_object(uri, kind, config)
    raise MediaError("remote_not_allowed", _named(uri), f"scheme {kind}" if kind else "no scheme")


def _named(uri: str) -> str:
    """The URI for a message: without credentials, and without the query, which is where signatures are."""
    head, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return head + separator + host.rpartition("@")[2] + slash + path.partition("?")[0].partition("#")[0]


def _fetch_web(uri: str, config: RemoteConfig, network: _Network) -> bytes:
    try:
        from fsspec.asyn import get_loop, sync
        from fsspec.implementations.http import HTTPFileSystem
    except ImportError as error:
        raise _not_installed("fsspec[http]", error) from None
    import aiohttp

    async def bounded() -> bytes:
        async with asyncio.timeout(config.timeout_s):
            return await _follow(uri, config, network, HTTPFileSystem)

    try:
        answer: bytes = sync(get_loop(), bounded)
    except MediaError:
        raise
    except (TimeoutError, aiohttp.ServerTimeoutError) as error:
        raise MediaError("timeout", _named(uri), str(error) or f"{config.timeout_s:g} s") from None
    except Exception as error:  # of the network, TLS or HTTP: the file is not to be had
        raise MediaError("remote_error", _named(uri), f"{type(error).__name__}: {error}") from None
    return answer


async def _follow(uri: str, config: RemoteConfig, network: _Network, file_system: Any) -> bytes:
    url = _parsed(uri, config)
    for hop in range(_MOST_REDIRECTS + 1):
        addresses = await _checked(url, network)
        answer = await _get(url, addresses, config, file_system)
        if isinstance(answer, bytes):
            return answer
        if hop < _MOST_REDIRECTS:
            try:
                target = _parsed(str(url.join(_yarl(answer))), config)
            except (MediaError, ValueError) as error:
                detail = error.detail if isinstance(error, MediaError) else "not a URL"
                raise MediaError(
                    "redirect_refused", _named(uri), f"to {_named(answer)[:100]}: {detail}"
                ) from None
            if url.scheme == "https" and target.scheme != "https":
                raise MediaError("redirect_refused", _named(uri), "from https to http")
            url = target
    raise MediaError("redirect_refused", _named(uri), f"more than {_MOST_REDIRECTS} redirects")


def _yarl(uri: str) -> yarl.URL:
    import yarl

    return yarl.URL(uri)


def _parsed(uri: str, config: RemoteConfig) -> yarl.URL:
    """The URL, read by the parser of the client that will connect, so that both mean the same host."""
    if not uri.isprintable() or "\\" in uri or " " in uri or len(uri) > 4096:
        raise MediaError("remote_not_allowed", _named(uri[:300]), "characters that no URL has")
    try:
        url = _yarl(uri)
        host, port = url.host, url.port
    except ValueError as error:
        raise MediaError("remote_not_allowed", _named(uri), str(error)) from None
    if url.scheme not in _WEB or not host:
        raise MediaError("remote_not_allowed", _named(uri), "no http or https host")
    if url.user is not None or url.password is not None:
        raise MediaError("remote_not_allowed", _named(uri), "credentials in the URL")
    if "::" in url.path:  # other readers of the same URI would take this for a chain of file systems
        raise MediaError("remote_not_allowed", _named(uri), "a chained URI")
    name = host.rstrip(".").lower()
    place = name if port == (443 if url.scheme == "https" else 80) else f"{name}:{port}"
    if not any(_covers(entry, url.scheme, place, url.path) for entry in config.allow):
        raise MediaError("remote_not_allowed", _named(uri), f"{url.scheme}://{place} is not on the list")
    return url


def _covers(entry: str, scheme: str, place: str, path: str) -> bool:
    """Whether an entry of the allow-list is the place, or above it, at a boundary between folders."""
    match = _ENTRY.fullmatch(entry)
    if match is None or match[1] != scheme:
        return False
    allowed = match[2].lower() if scheme in _WEB else match[2]
    folder = (match[3] or "").rstrip("/")
    if ".." in unquote(unquote(path)).replace("\\", "/").split("/"):
        return False
    if allowed.startswith("*."):
        named = place.endswith(allowed[1:]) and len(place) > len(allowed) - 1
    else:
        named = place == (allowed[1:-1] if allowed.startswith("[") and allowed.endswith("]") else allowed)
    return named and (not folder or path == folder or path.startswith(folder + "/"))


async def _resolve(host: str, port: int) -> Sequence[str]:
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def _checked(url: yarl.URL, network: _Network) -> list[Address]:
    """Every address of the host, all of them allowed; they are looked up once, and only they are connected to."""
    host = str(url.raw_host).rstrip(".")
    try:
        addresses: list[Address] = [ipaddress.ip_address(host)]
    except ValueError:
        if inner := numeric(host):  # 2130706433, 0x7f.1, 0177.0.0.1: what the system would make of it
            reason = "remote_not_allowed" if is_public(inner) else "private_address"
            raise MediaError(reason, _named(str(url)), f"{host} is {inner}") from None
        try:
            found = await network.resolve(host, int(url.port or 0))
        except OSError as error:
            raise MediaError(
                "remote_error", _named(str(url)), f"no address of {host}: {error.strerror}"
            ) from None
        addresses = [ipaddress.ip_address(address) for address in found]
    for address in addresses:
        if not network.may_connect(address):
            raise MediaError("private_address", _named(str(url)), f"{host} is {address}")
    if not addresses:
        raise MediaError("remote_error", _named(str(url)), f"no address of {host}")
    return addresses


async def _get(
    url: yarl.URL, addresses: Sequence[Address], config: RemoteConfig, file_system: Any
) -> bytes | str:
    """The content, or where the server redirects to."""
    import aiohttp

    async def client(**options: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_pinned(addresses), use_dns_cache=False, force_close=True
            ),
            timeout=aiohttp.ClientTimeout(
                total=config.timeout_s, sock_connect=config.connect_timeout_s, sock_read=config.read_timeout_s
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # a proxy would look the name up by itself, .netrc holds credentials
            auto_decompress=False,  # a few bytes of gzip may be gigabytes
            headers={"User-Agent": "captionary", "Accept": "*/*", "Accept-Encoding": "identity"},
            **options,
        )

    web = file_system(asynchronous=True, skip_instance_cache=True, get_client=client)
    session = await web.set_session()
    async with session, session.get(url, allow_redirects=False) as response:
        if response.status in _REDIRECTS:
            if "Location" not in response.headers:
                raise MediaError("redirect_refused", _named(str(url)), "to nowhere")
            return str(response.headers["Location"])
        if response.status in (404, 410):
            raise MediaError("missing", _named(str(url)), f"HTTP {response.status}")
        if response.status != 200:
            raise MediaError("remote_error", _named(str(url)), f"HTTP {response.status}")
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("", "identity"):
            raise MediaError(
                "remote_error", _named(str(url)), f"Content-Encoding {encoding}, which was not asked for"
            )
        if (response.content_length or 0) > config.max_bytes:
            raise _too_large(str(url), config)
        parts = bytearray()
        async for part in response.content.iter_chunked(_CHUNK):
            parts += part
            if len(parts) > config.max_bytes:
                raise _too_large(str(url), config)
        return bytes(parts)


def _pinned(addresses: Sequence[Address]) -> aiohttp.abc.AbstractResolver:
    """A resolver that knows the checked addresses and asks nobody, so that the name cannot change its mind."""
    import aiohttp.abc

    class Pinned(aiohttp.abc.AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[aiohttp.abc.ResolveResult]:
            families = {4: socket.AF_INET, 6: socket.AF_INET6}
            return [
                {
                    "hostname": host,
                    "host": str(address),
                    "port": port,
                    "family": families[address.version],
                    "proto": 0,
                    "flags": socket.AI_NUMERICHOST,
                }
                for address in addresses
                if family in (socket.AF_UNSPEC, families[address.version])
            ]

        async def close(self) -> None:
            pass

    return Pinned()


def _too_large(uri: str, config: RemoteConfig) -> MediaError:
    return MediaError("too_large", _named(uri), f"more than {config.max_bytes:,} bytes")


def _not_installed(package: str, error: ImportError) -> Exception:
    rule = f"installed to read remote media ({error})"
    return bad_value("package", package, rule, todo=f"pip install 'captionary[remote]' or '{package}'")


def _fetch_object(uri: str, kind: str, config: RemoteConfig) -> bytes:
    if "::" in uri or not uri.isprintable():
        raise MediaError("remote_not_allowed", _named(uri), "a chained URI")
    parts = urlsplit(uri)
    if "@" in parts.netloc and kind not in ("abfs", "abfss"):  # there it is CONTAINER@ACCOUNT
        raise MediaError("remote_not_allowed", _named(uri), "credentials in the URI")
    path = uri.partition("://")[2].partition("/")
    if not any(_covers(entry, kind, path[0], "/" + path[2]) for entry in config.allow):
        raise MediaError("remote_not_allowed", _named(uri), f"{kind}://{path[0]} is not on the list")
    try:
        import fsspec

        store = fsspec.filesystem(kind)
    except ImportError as error:
        raise _not_installed(
            {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(kind, kind), error
        ) from None
    return _in_time(uri, config, lambda given_up: _read_object(store, uri, config, given_up))


def _read_object(store: Any, uri: str, config: RemoteConfig, given_up: threading.Event) -> bytes:
    path = store._strip_protocol(uri)
    with store.open(path, "rb", block_size=_CHUNK * 16, cache_type="readahead") as file:
        parts = bytearray()
        while not given_up.is_set():
            part = file.read(_CHUNK)
            parts += part
            if len(parts) > config.max_bytes:
                raise _too_large(uri, config)
            if not part:
                break
        return bytes(parts)


def _in_time(uri: str, config: RemoteConfig, work: Callable[[threading.Event], bytes]) -> bytes:
    """Run a blocking read; after the time limit it is left behind, to end by its client's own limits."""
    outcome: list[bytes | BaseException] = []
    given_up = threading.Event()

    def run() -> None:
        try:
            outcome.append(work(given_up))
        except BaseException as error:  # handed to the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=run, name="captionary-remote", daemon=True)
    thread.start()
    thread.join(config.timeout_s)
    given_up.set()
    if not outcome:
        raise MediaError("timeout", _named(uri), f"{config.timeout_s:g} s")
    result = outcome[0]
    if isinstance(result, bytes):
        return result
    if isinstance(result, MediaError):
        raise result
    if isinstance(result, FileNotFoundError):
        raise MediaError("missing", _named(uri)) from None
    if isinstance(result, TimeoutError):
        raise MediaError("timeout", _named(uri), str(result)) from None
    raise MediaError("remote_error", _named(uri), f"{type(result).__name__}: {result}") from None
