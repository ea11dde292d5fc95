"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, Router, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter

from captionary.online.service.problems import PROBLEMS
from captionary.online.service.services import Services
from captionary.online.service.types import Health, Ready

__all__ = ["status_routes"]


def status_routes(services: Services) -> Router:
    """What orchestrators and Prometheus ask."""

    @get(
        "/healthz",
        opt={"needs": "open"},
        summary="Whether the process answers",
        tags=["status"],
        operation_id="healthz",
    )
    async def healthz() -> Health:
        """Always ok: a process that cannot say so is to be started anew."""
        return Health()

    @get(
        "/readyz",
        opt={"needs": "open"},
        summary="Whether to send requests",
        tags=["status"],
        operation_id="readyz",
        responses={503: ResponseSpec(Ready, description="Not now.", generate_examples=False)},
    )
    async def readyz() -> Response[Ready]:
        """Ready: the rankers are loaded, the store answers, the log takes entries, and no stop has been asked for.

        A service that is not ready still ranks what it is sent, as well as it can.
        """
        found = await services.status.run(services.readiness)
        if services.draining:
            found = {**found, "process": "stopping"}
        ready = all(said == "ok" for said in found.values())
        # Messages of stores name hosts: those who need no key are told which part it is, not where it lies.
        shown = {
            part: said if said in ("ok", "stopping") else "not ok: see the service's log"
            for part, said in found.items()
        }
        return Response(Ready(ready=ready, parts=shown), status_code=200 if ready else 503)

    @get(
        "/metrics",
        opt={"needs": "read"},
        summary="For Prometheus",
        tags=["status"],
        operation_id="metrics",
        media_type="text/plain",
        responses=PROBLEMS,
    )
    async def metrics(
        request: Request[Any, Any, Any],
        accept: Annotated[str, HeaderParameter(name="Accept", max_length=1000)] = "",
    ) -> Response[bytes]:
        """Counts, gauges and histograms; see docs/service.md."""
        del request
        text, kind = await services.status.run(services.telemetry.expose, accept)
        return Response(text, media_type=kind)

    return Router("/", route_handlers=[healthz, readyz, metrics])
