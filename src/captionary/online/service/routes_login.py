"""`/login` and `/logout`: a key, shown once by a browser, becomes a session for the pages."""

from __future__ import annotations

import html
from typing import Annotated, Any
from urllib.parse import urlsplit

from litestar import MediaType, Request, Response, Router, get, post
from litestar.enums import RequestEncodingType
from litestar.params import Body, QueryParameter
from litestar.response import Redirect
from litestar.utils.scope.state import ScopeState

from captionary.online.service.gatekeeper import session_cookie
from captionary.online.service.services import Services

__all__ = ["csrf_token", "local_path", "login_routes"]

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Captionary</title>
<link rel="stylesheet" href="{style}">
<link rel="icon" type="image/svg+xml" href="{icon}">
<main>
<h1>Log in</h1>
{problem}
<form class="search" method="post" action="/login">
<input type="hidden" name="_csrf_token" value="{token}">
<input type="hidden" name="next" value="{next}">
<p><label for="key">API key with scope <code>read</code></label></p>
<p><input id="key" name="key" type="password" required autocomplete="current-password" maxlength="200"></p>
<p><button>Log in</button></p>
</form>
</main>
</html>
"""


def login_routes(services: Services) -> Router:
    """The two forms."""
    from captionary.online.explorer.pages import asset  # which knows this module

    def page(request: Request[Any, Any, Any], target: str, problem: str = "") -> Response[str]:
        shown = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
        text = _PAGE.format(
            problem=shown,
            token=html.escape(csrf_token(request)),
            next=html.escape(local_path(target)),
            style=asset("explorer.css"),
            icon=asset("icon.svg"),
        )
        return Response(text, media_type=MediaType.HTML, status_code=401 if problem else 200)

    @get("/login", include_in_schema=False)
    async def login(
        request: Request[Any, Any, Any],
        target: Annotated[str, QueryParameter(name="next", max_length=2000)] = "/",
    ) -> Response[str]:
        return page(request, target)

    @post("/login", include_in_schema=False)
    async def logged_in(
        request: Request[Any, Any, Any],
        data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
    ) -> Response[Any]:
        target = local_path(str(data.get("next", "/")))
        key = None if services.keys is None else services.keys.check(str(data.get("key", "")).strip())
        if key is None or not key.allows("read"):
            services.telemetry.refused.labels("no_key").inc()
            return page(request, target, "That is no key with scope read.")
        if services.rates.take(key.id, key.rate, key.burst):
            return page(request, target, "Too often; try again later.")
        cookie = session_cookie(services.sessions.cookie(key), secure=request.url.scheme == "https")
        return Redirect(target, status_code=303, cookies=[cookie])

    @post("/logout", include_in_schema=False)
    async def logged_out(request: Request[Any, Any, Any]) -> Response[Any]:
        cookie = session_cookie("", secure=request.url.scheme == "https")
        return Redirect("/login", status_code=303, cookies=[cookie])

    return Router("/", route_handlers=[login, logged_in, logged_out], opt={"needs": "open", "pages": True})


def csrf_token(request: Request[Any, Any, Any]) -> str:
    """What a form must send back as `_csrf_token`."""
    return str(ScopeState.from_scope(request.scope).csrf_token or "")


def local_path(target: str) -> str:
    """A path of this service; `/` for anything that would lead a browser elsewhere."""
    parts = urlsplit(target)
    elsewhere = parts.scheme or parts.netloc or not target.startswith("/") or target.startswith(("//", "/\\"))
    return "/" if elsewhere or not target.isprintable() or "\\" in target else target
