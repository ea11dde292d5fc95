"""Errors as pages: what was wrong, in the service's own words, and a way back; never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from captionary.errors import CaptionaryError
from captionary.online.explorer.pages import Pages
from captionary.online.keyvalue import StoreUnavailableError
from captionary.online.log import LogFullError, LogUnavailableError
from captionary.online.service.limits import OverloadedError
from captionary.understand.untrusted import for_log

if TYPE_CHECKING:
    from captionary.online.service.services import Services

__all__ = ["handlers"]

_logger = logging.getLogger("captionary.service")
_TITLES = {
    401: "Log in first",
    403: "Not allowed",
    404: "Not here",
    405: "Not this way",
    413: "Too large",
    429: "Too often",
}


def handlers(services: Services, pages: Pages) -> dict[Any, Callable[..., Response[Any]]]:
    """Exception → its page, for the pages' router alone: programs are answered in JSON."""

    def shown(
        request: Request[Any, Any, Any],
        status: int,
        title: str,
        detail: str,
        headers: dict[str, str] | None = None,
    ) -> Response[Any]:
        answer = pages.rendered(request, "mistake.html.j2", status=status, title=title, detail=detail[:2000])
        for name, value in (headers or {}).items():
            answer.headers[name] = value
        return answer

    def mistake(request: Request[Any, Any, Any], error: CaptionaryError) -> Response[Any]:
        return shown(request, 400, "That is none", str(error))

    def unavailable(request: Request[Any, Any, Any], error: CaptionaryError) -> Response[Any]:
        reason = getattr(error, "reason", None) or "page_unavailable"
        services.telemetry.refused.labels(reason).inc()
        wait = str(max(1, round(getattr(error, "retry_after", 1.0))))
        # Messages of stores name hosts: they are for the log.
        _logger.warning("page %s: %s", for_log(request.url.path), for_log(str(error)))
        detail = "A part of the service is busy or away. What was asked was not done; try again in a moment."
        return shown(request, 503, "Not now", detail, {"Retry-After": wait})

    def http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
        if error.status_code >= 500:
            return failure(request, error)
        title = _TITLES.get(error.status_code, "That is none")
        detail = error.detail
        if isinstance(error.extra, list) and error.extra:
            detail = "; ".join(
                ": ".join(str(one[part]) for part in ("key", "message") if part in one)
                for one in error.extra
                if isinstance(one, dict)
            )
        return shown(request, error.status_code, title, detail, error.headers)

    def failure(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        _logger.error("page %s %s failed", request.method, for_log(request.url.path), exc_info=error)
        return shown(request, 500, "Something went wrong", "It is in the service's log.")

    return {
        StoreUnavailableError: unavailable,
        LogUnavailableError: unavailable,
        LogFullError: unavailable,
        OverloadedError: unavailable,
        CaptionaryError: mistake,
        HTTPException: http,
        Exception: failure,
    }
