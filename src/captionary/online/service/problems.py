"""Errors as answers: the message that names what, value and rule, with a status and a slug; never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Redirect

from captionary.errors import CaptionaryError
from captionary.online.keyvalue import StoreUnavailableError
from captionary.online.log import LogFullError, LogUnavailableError
from captionary.online.service.gatekeeper import SeeLoginError
from captionary.online.service.limits import OverloadedError
from captionary.online.service.types import Problem
from captionary.understand.refusals import MediaError
from captionary.understand.untrusted import for_log

if TYPE_CHECKING:
    from captionary.online.service.services import Services

__all__ = ["PROBLEMS", "handlers"]

_logger = logging.getLogger("captionary.service")
_SLUGS = {400: "bad_request", 401: "no_key", 403: "not_allowed", 404: "not_found", 405: "bad_method"}
_SLUGS |= {
    408: "too_slow",
    413: "too_large",
    415: "bad_type",
    422: "bad_media",
    429: "rate",
    503: "unavailable",
}

PROBLEMS: dict[int, ResponseSpec] = {
    400: ResponseSpec(
        Problem, description="Something in the request is none: see `detail`.", generate_examples=False
    ),
    401: ResponseSpec(Problem, description="No key that is known.", generate_examples=False),
    403: ResponseSpec(Problem, description="The key has not the scope.", generate_examples=False),
    413: ResponseSpec(Problem, description="Too large.", generate_examples=False),
    429: ResponseSpec(
        Problem, description="More requests than the key may: see `Retry-After`.", generate_examples=False
    ),
    503: ResponseSpec(
        Problem, description="Too busy, or a part is away: see `Retry-After`.", generate_examples=False
    ),
}


def handlers(services: Services) -> dict[Any, Callable[..., Response[Any]]]:
    """Exception → how it is answered."""

    def unavailable(_: Request[Any, Any, Any], error: CaptionaryError) -> Response[Any]:
        reason = getattr(error, "reason", None) or {
            LogFullError: "log_full",
            LogUnavailableError: "log_unavailable",
        }.get(type(error), "store_unavailable")
        services.telemetry.refused.labels(reason).inc()
        # A whole number of seconds, one at least: that is all that the header can say.
        wait = max(1, round(getattr(error, "retry_after", 1.0)))
        return _problem(503, reason, str(error), {"Retry-After": str(wait)})

    def media(_: Request[Any, Any, Any], error: MediaError) -> Response[Any]:
        services.telemetry.uploads.labels(error.reason).inc()
        return _problem(413 if error.reason == "too_large" else 422, error.reason, str(error))

    def mistake(_: Request[Any, Any, Any], error: CaptionaryError) -> Response[Any]:
        return _problem(400, "bad_value", str(error))

    def http(_: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
        status, extra = error.status_code, error.extra
        if status >= 500:
            return failure(_, error)
        detail = error.detail
        if isinstance(extra, list) and extra:
            detail = "; ".join(_said(one) for one in extra)
        return _problem(status, _SLUGS.get(status, "bad_request"), detail, error.headers)

    def login(_: Request[Any, Any, Any], error: SeeLoginError) -> Response[Any]:
        return Redirect(error.location, status_code=303)

    def failure(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        # The path alone: a query, a body or a header may hold what is nobody's business.
        _logger.error("%s %s failed", request.method, for_log(request.url.path), exc_info=error)
        return _problem(500, "internal", "something went wrong; it is in the service's log")

    return {
        StoreUnavailableError: unavailable,
        LogUnavailableError: unavailable,
        LogFullError: unavailable,
        OverloadedError: unavailable,
        MediaError: media,
        CaptionaryError: mistake,
        HTTPException: http,
        SeeLoginError: login,
        Exception: failure,
    }


def _said(found: object) -> str:
    """One of the things that are wrong, with the field's name where there is one."""
    if not isinstance(found, dict):
        return str(found)
    return ": ".join(str(found[part]) for part in ("key", "message") if part in found)


def _problem(status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> Response[Any]:
    body = msgspec.json.encode(Problem(status=status, reason=reason, detail=detail[:2000]))
    return Response(body, status_code=status, media_type=MediaType.JSON, headers=headers)
