"""`POST /events`."""

from __future__ import annotations

import hashlib
import time
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from litestar import Request, Router, post
from litestar.openapi.spec import Example
from litestar.params import HeaderParameter, JSONBody

from captionary.errors import bad_value
from captionary.online.log import EVENTS, EventMessage, event_draft
from captionary.online.service.documented import with_examples
from captionary.online.service.problems import PROBLEMS
from captionary.online.service.services import Services
from captionary.online.service.types import Acknowledged, Event, Events
from captionary.online.updates import checked_event

__all__ = ["event_routes", "idempotency_key"]

_AHEAD_SECONDS = 300.0
"""By so much a client's clock may be ahead: a later event would make the user's profile that of the future."""
_EXAMPLES = [
    Example(
        summary="Two events",
        value={
            "events": [
                {
                    "user": "u17",
                    "item": 1003,
                    "event": "like",
                    "timestamp": "2026-03-02T09:00:00Z",
                    "key": "a7",
                },
                {"user": "u17", "item": 1000, "event": "share"},
            ]
        },
    )
]


def event_routes(services: Services) -> Router:
    """The route that takes events."""
    most = services.config.limits.events

    def acknowledge(data: Events, name: str, batch: str | None) -> Acknowledged:
        drafts, without = [], set()
        present = datetime.now(UTC)
        for place, event in enumerate(data.events):
            message = _message(event, present, services)
            if checked_event(services.store, message) is None:
                without.add(event.event)
            drafts.append(event_draft(message, idempotency_key(name, event.key, batch, place)))
        positions = services.log.append(EVENTS, drafts)
        known = set(services.store.config.event_types)
        for event in data.events:
            services.telemetry.events.labels(event.event if event.event in known else "(other)").inc()
        return Acknowledged(accepted=len(drafts), positions=positions, without_profile=sorted(without))

    @post(
        "/events",
        opt={"needs": "events", "pool": "write"},
        status_code=202,
        summary="Take a batch of events",
        tags=["ingest"],
        operation_id="events",
        operation_class=with_examples(_EXAMPLES),
        responses=PROBLEMS,
    )
    async def events(
        data: JSONBody[Events],
        request: Request[Any, Any, Any],
        batch: Annotated[
            str | None,
            HeaderParameter(
                name="Idempotency-Key",
                max_length=100,
                description="Of the batch: sent again under the same key, nothing counts twice.",
            ),
        ] = None,
    ) -> Acknowledged:
        """Take up to 1,000 events, all or none. When this answers they are on disk; each has its effect once."""
        if len(data.events) > most:
            raise bad_value("events", len(data.events), f"<= {most}")
        return await services.writes.run(acknowledge, data, request.auth.name, batch)

    return Router("/", route_handlers=[events])


def idempotency_key(name: str, own: str | None, batch: str | None, place: int) -> str:
    """The key in the log, 64 characters: of whoever sent it, and of what they call it; else a new one."""
    if own is None and batch is None:
        return uuid.uuid4().hex
    said = repr((name, "own", own) if own is not None else (name, "batch", batch, place))
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def _message(event: Event, present: datetime, services: Services) -> EventMessage:
    services.rankers.check_user(event.user)
    services.rankers.check_items([event.item])
    moment = time.time_ns() // 1000
    if event.timestamp is not None:
        ahead = (event.timestamp - present).total_seconds()
        if ahead > _AHEAD_SECONDS:
            rule = f"at most {_AHEAD_SECONDS:g} s after now"
            raise bad_value("timestamp", event.timestamp.isoformat(), rule)
        moment = _micros(event.timestamp)
    return EventMessage(
        user_id=event.user, item_id=event.item, event=event.event, timestamp=moment, value=event.value
    )


def _micros(moment: datetime) -> int:
    """Exactly, as a float of seconds would not be."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
