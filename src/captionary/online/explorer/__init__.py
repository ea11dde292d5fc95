"""The service's own pages: feeds, items, users, experiments and ingest, for people to look at and to govern."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litestar import Router

    from captionary.online.service.services import Services

__all__ = ["router"]


def router(services: Services) -> Router:
    """The pages' routes, for `service.app.create_app`."""
    from captionary.online.explorer.routes import explorer_routes

    return explorer_routes(services)
