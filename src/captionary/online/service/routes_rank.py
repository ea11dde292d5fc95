"""`POST /rank`."""

from __future__ import annotations

import time
from typing import Any

from litestar import MediaType, Request, Response, Router, post
from litestar.exceptions import PermissionDeniedException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import JSONBody

from captionary.errors import bad_value
from captionary.online.service.documented import with_examples
from captionary.online.service.problems import PROBLEMS
from captionary.online.service.services import Services
from captionary.online.service.types import RankAnswer, RankRequest

__all__ = ["rank_routes"]

_EXAMPLES = [
    Example(
        summary="Three candidates",
        value={"user": "u17", "items": [1003, 1000, 1029], "context": {"tab": "home", "hour": 9}},
    ),
    Example(
        summary="With the words that met",
        value={"user": "u17", "items": [1003, 1000], "explain": {"items": 1, "pairs": 3}},
    ),
]
_ANSWER = Example(
    summary="Three candidates",
    value={
        "request_id": "3f0c…",
        "model": {"name": "captions", "version": "9d1e…"},
        "experiments": [
            {"experiment": "captions", "arm": "treatment", "reason": "assigned", "version": "5be1…"}
        ],
        "as_of": "2026-03-02T09:00:00Z",
        "scores": {"like": [0.12, 0.31, 0.07], "share": [0.01, 0.02, 0.01]},
        "combined": [0.13, 0.33, 0.08],
        "order": [1, 0, 2],
        "degraded": {},
        "explanations": None,
    },
)


def rank_routes(services: Services) -> Router:
    """The route that ranks."""
    most, telemetry, recorder = services.config.limits.candidates, services.telemetry, services.recorder

    @post(
        "/rank",
        opt={"needs": "rank", "pool": "rank"},
        status_code=200,
        summary="Rank candidates for a user",
        tags=["ranking"],
        operation_id="rank",
        operation_class=with_examples(_EXAMPLES),
        responses=PROBLEMS | {200: ResponseSpec(RankAnswer, description="Scores.", examples=[_ANSWER])},
    )
    async def rank(data: JSONBody[RankRequest], request: Request[Any, Any, Any]) -> Response[bytes]:
        """Score up to 1,000 candidates. What is missing (an unknown user, an item without features, a store that
        does not answer) is left out of the scores, named in `degraded`, and is no error.
        """
        if len(data.items) > most:
            raise bad_value("candidates", len(data.items), f"<= {most}")
        if data.variant and not request.auth.allows("admin"):
            raise PermissionDeniedException("scopes == without admin, must be with it for a variant")
        began, failed = time.perf_counter(), True

        def work() -> bytes:
            telemetry.stages.labels("queue").observe(time.perf_counter() - began)
            return services.ranking.encoded(data)

        try:
            answer = await services.ranks.run(work)
            failed = False
        finally:
            if recorder is not None:
                recorder.timed(data.user, time.perf_counter() - began, error=failed)
        return Response(answer, media_type=MediaType.JSON)

    return Router("/", route_handlers=[rank])
