"""The ASGI application: routes, the gate before them, errors, the OpenAPI document, and the explorer's pages."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, Router
from litestar.config.csrf import CSRFConfig
from litestar.config.response_cache import ResponseCacheConfig
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from captionary import __version__
from captionary.online.service.gatekeeper import Gatekeeper, Observer
from captionary.online.service.problems import handlers
from captionary.online.service.routes_events import event_routes
from captionary.online.service.routes_items import item_routes
from captionary.online.service.routes_login import login_routes
from captionary.online.service.routes_rank import rank_routes
from captionary.online.service.routes_status import status_routes
from captionary.online.service.routes_users import user_routes
from captionary.online.service.services import Services

__all__ = ["create_app"]

_EXPLORER = "captionary.online.explorer"
_DESCRIPTION = """Ranks candidates with caption features, takes events and media, and lets people see and govern what
is known of them. Errors have a `reason` (a slug) and a `detail` (what == value, must be rule)."""


def create_app(services: Services, *, close: bool = True) -> Litestar:
    """The application of a service.

    Args:
        services: what it works with.
        close: whether to close them when the application stops.
    """

    @asynccontextmanager
    async def life(_: Litestar) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if close:
                services.close()

    # Nothing of it is authorised by a cookie, so there is nothing that another site could make a browser do.
    interface = Router(
        "/",
        route_handlers=[
            make(services) for make in (rank_routes, event_routes, item_routes, user_routes, status_routes)
        ],
        opt={"exclude_from_csrf": True},
        security=[{"key": []}],
    )
    return Litestar(
        route_handlers=[interface, login_routes(services), *_explorer(services)],
        middleware=[Gatekeeper(services)],
        before_send=[Observer(services)],
        exception_handlers=handlers(services),
        lifespan=[life],
        csrf_config=CSRFConfig(
            secret=services.sessions.csrf_secret,
            cookie_name="captionary_csrf",
            cookie_httponly=True,
            cookie_samesite="strict",
        ),
        request_max_body_size=services.config.limits.body_bytes,
        multipart_form_part_limit=services.config.uploads.files + 4,
        response_cache_config=ResponseCacheConfig(default_expiration=0),
        openapi_config=OpenAPIConfig(
            title="Captionary",
            version=__version__,
            description=_DESCRIPTION,
            use_handler_docstrings=True,
            # The document alone: the viewers that Litestar offers are loaded from other people's servers.
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            openapi_router=Router(
                "/schema",
                route_handlers=[],
                include_in_schema=False,
                opt={"needs": "open", "exclude_from_csrf": True},
            ),
            components=Components(
                security_schemes={
                    "key": SecurityScheme(
                        type="http", scheme="bearer", description="A key of `captionary keys`."
                    )
                }
            ),
        ),
        logging_config=None,
        debug=False,
    )


def _explorer(services: Services) -> list[Router]:
    """The pages, where they are installed: `captionary.online.explorer.router(services)`."""
    if importlib.util.find_spec(_EXPLORER) is None:
        return []
    module = importlib.import_module(_EXPLORER)
    make = getattr(module, "router", None)
    # Pages are for people: the document is of the interface alone.
    return [] if make is None else [Router("/", route_handlers=[make(services)], include_in_schema=False)]
