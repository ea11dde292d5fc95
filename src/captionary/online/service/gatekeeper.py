"""What every request passes before its handler: whose key it is, whether it may, and whether there is a place.

opt of a handler    needs   a scope, or `open` for everybody; absent: `admin`, so that nothing is open by mistake
                    pages   true: a browser's session counts as the key it was opened with
                    pool    `rank` or `write`: a place there is held until the answer is sent
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import quote

from litestar.datastructures import Cookie, MutableScopeHeaders
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException
from litestar.middleware import ASGIMiddleware

from captionary.online.service.keys import LOCAL, ApiKey
from captionary.online.service.sessions import COOKIE

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from captionary.online.service.services import Services

__all__ = ["PAGES_POLICY", "Gatekeeper", "Observer", "SeeLoginError", "session_cookie"]

_BEGAN = "captionary_began"
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGES_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing but files of the service itself: a script in a caption has nowhere to run from."""


class SeeLoginError(Exception):
    """A browser without a session asked for a page; it is sent to `/login` and back."""

    def __init__(self, path: str) -> None:
        self.location = f"/login?next={quote(path, safe='/')}"


class Gatekeeper(ASGIMiddleware):
    """Lets requests in; the key is `request.auth` from then on."""

    def __init__(self, services: Services) -> None:
        self.services = services
        hosts = services.config.hosts
        if not hosts and services.keys is None:
            # A page of another site could otherwise reach the service under a name of its own (DNS rebinding).
            hosts = ("localhost", "127.0.0.1", "::1")
        self._hosts = frozenset(host.lower() for host in hosts)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Pass a request on, or raise what says why not."""
        opt = scope["route_handler"].opt
        scope["state"][_BEGAN] = time.perf_counter()
        probe = opt.get("needs") == "open" and not opt.get("pages")  # orchestrators ask by address
        if self._hosts and not probe and (host := _host(scope)) not in self._hosts:
            raise HTTPException(f"Host == {host[:100]}, must be one that the service has", status_code=400)
        key = self._key(scope, opt.get("needs", "admin"), pages=bool(opt.get("pages")))
        scope["auth"], scope["user"] = key, None
        if key is not None:
            wait = self.services.rates.take(key.id, key.rate, key.burst)
            if wait:
                self.services.telemetry.refused.labels("rate").inc()
                shown = f"rate == more than {key.rate:g} requests a second, must be less"
                raise HTTPException(shown, status_code=429, headers={"Retry-After": str(int(wait) + 1)})
        pools = {"rank": self.services.ranks, "write": self.services.writes}
        pool = pools.get(opt.get("pool", ""))
        with contextlib.nullcontext() if pool is None else pool.place():
            await next_app(scope, self._in_time(receive), send)

    def _key(self, scope: Scope, needs: str, *, pages: bool) -> ApiKey | None:
        if needs == "open":
            return None
        services = self.services
        if services.keys is None:
            return LOCAL
        shown = _header(scope, b"authorization")
        if shown:
            kind, _, text = shown.partition(" ")
            key = services.keys.check(text.strip()) if kind.lower() == "bearer" else None
        elif pages:
            key = services.sessions.check(_cookie(scope))
            if key is None and scope.get("method") in ("GET", "HEAD"):
                query = scope["query_string"].decode("latin-1")
                raise SeeLoginError(scope["path"] + (f"?{query}" if query else ""))
        else:
            key = None
        if key is None:
            services.telemetry.refused.labels("no_key").inc()
            raise NotAuthorizedException(
                "key == none that is known, must be given as Authorization: Bearer",
                headers={"WWW-Authenticate": 'Bearer realm="captionary"'},
            )
        if not key.allows(needs):
            services.telemetry.refused.labels("scope").inc()
            raise PermissionDeniedException(f"scopes == {', '.join(key.scopes)}, must be with {needs}")
        return key

    def _in_time(self, receive: Receive) -> Receive:
        """`receive` that gives up a body that dribbles in."""
        seconds = self.services.config.limits.read_seconds
        began = time.monotonic()
        whole = False

        async def bounded() -> object:
            nonlocal whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(max(0.001, began + seconds - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                shown = f"time to send the request == more than {seconds:g} s, must be less"
                raise HTTPException(shown, status_code=408, headers={"Connection": "close"}) from None
            whole = not (message["type"] == "http.request" and message.get("more_body", False))
            return message

        return bounded  # type: ignore[return-value]


class Observer:
    """Before an answer is sent: headers that every answer has, and what the metrics say of it."""

    def __init__(self, services: Services) -> None:
        self.telemetry = services.telemetry
        self.services = services

    async def __call__(self, message: Message, scope: Scope) -> None:
        """A hook of Litestar's `before_send`."""
        if message["type"] != "http.response.start":
            return
        handler = scope.get("route_handler")
        pages = bool(handler and handler.opt.get("pages"))
        headers = MutableScopeHeaders.from_message(message)
        for name, value in (
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Content-Security-Policy", PAGES_POLICY if pages else _API_POLICY),
            ("Cache-Control", "no-store"),
        ):
            headers.setdefault(name, value)
        if self.services.draining:
            headers["Connection"] = "close"
        route = scope.get("path_template") or "(none)"
        method = str(scope.get("method")) if handler else "(any)"
        self.telemetry.requests.labels(route, method, str(message["status"])).inc()
        began = scope["state"].get(_BEGAN) if "state" in scope else None
        if began is not None:
            self.telemetry.latency.labels(route).observe(time.perf_counter() - began)
        for name, pool in (("rank", self.services.ranks), ("write", self.services.writes)):
            self.telemetry.inside.labels(name).set(pool.inside)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _host(scope: Scope) -> str:
    """The name without the port, in lower case."""
    name = _header(scope, b"host").lower()
    return name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]


def _cookie(scope: Scope) -> str | None:
    try:
        found = SimpleCookie(_header(scope, b"cookie")).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def session_cookie(value: str, *, secure: bool) -> Cookie:
    """The cookie of a session; empty: one that ends it."""
    return Cookie(
        key=COOKIE,
        value=value,
        max_age=12 * 3600 if value else 0,
        httponly=True,
        samesite="strict",
        secure=secure,
    )
