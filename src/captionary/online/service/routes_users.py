"""`GET /users/{id}/profile`, what users decide about it, and `DELETE /users/{id}`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from litestar import Router, delete, get, post
from litestar.openapi.spec import Example
from litestar.params import FromPath, JSONBody, PathParameter, QueryParameter

from captionary.errors import bad_value
from captionary.online.decisions import erase, erase_token, govern
from captionary.online.governance import Governance
from captionary.online.packing import Id
from captionary.online.service.documented import with_examples
from captionary.online.service.problems import PROBLEMS
from captionary.online.service.services import Services
from captionary.online.service.types import Govern, Governed, Profile, ProfileToken, Removed

__all__ = ["boosted_words", "muted_words", "user_routes"]

_TEXT = {"min_length": 1, "max_length": 200}
_EXAMPLES = [
    Example(summary="One word", value={"word": "guitar"}),
    Example(summary="Of likes", value={"word": "guitar", "event": "like"}),
]
Verb = Literal["mute", "unmute", "boost", "erase"]


def user_routes(services: Services) -> Router:
    """The routes for users."""

    def profile(user: Id, moment: datetime | None) -> Profile:
        present = time.time_ns() // 1000
        if moment is None:
            lists = services.store.profile(user, present)
        else:
            since = moment - datetime(1970, 1, 1, tzinfo=UTC)
            present = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
            lists = services.store.history(user, present)
        governance = services.store.governance_of(user)
        return Profile(
            user=user,
            as_of=moment or datetime.fromtimestamp(present / 1e6, UTC),
            events={
                event: [
                    ProfileToken(token=token, word=services.words.word(token), weight=weight)
                    for token, weight in zip(one.token_ids.tolist(), one.weights.tolist(), strict=True)
                ]
                for event, one in lists.items()
            },
            mass={event: one.mass for event, one in lists.items()},
            muted=muted_words(services, governance),
            boosted=boosted_words(services, governance),
        )

    def decide(user: Id, verb: Verb, data: Govern) -> Governed:
        store = services.store
        if verb == "erase" and data.word is None:
            governance = erase(store, user, event=data.event)
        else:
            if data.word is None:
                raise bad_value("word", "(absent)", "given")
            if (data.factor is not None) != (verb == "boost"):
                raise bad_value("factor", data.factor or "(absent)", "given for boost, and for it alone")
            token = services.words.token(data.word)
            if verb == "erase":
                governance = erase_token(store, user, token, event=data.event)
            else:
                governance = govern(
                    store, user, verb, event=data.event, token=token, factor=data.factor or 1.0
                )
        return Governed(
            user=user, muted=muted_words(services, governance), boosted=boosted_words(services, governance)
        )

    @get(
        "/users/{user:str}/profile",
        opt={"needs": "read", "pool": "write"},
        summary="A user's interests in words",
        tags=["users"],
        operation_id="profile",
        responses=PROBLEMS,
    )
    async def interests(
        user: Annotated[str, PathParameter(**_TEXT)],
        as_of: Annotated[
            datetime | None, QueryParameter(description="As they were at a moment, with its time zone.")
        ] = None,
    ) -> Profile:
        """The lists that the ranker reads, as words; empty for a user of whom nothing is known."""
        if as_of is not None and as_of.tzinfo is None:
            raise bad_value("as_of", as_of.isoformat(), "with a time zone, such as 2026-03-02T09:00:00Z")
        return await services.writes.run(profile, services.user_id(user), as_of)

    @post(
        "/users/{user:str}/profile/{verb:str}",
        opt={"needs": "erase", "pool": "write"},
        status_code=200,
        summary="Mute, unmute, boost or erase",
        tags=["users"],
        operation_id="govern",
        operation_class=with_examples(_EXAMPLES),
        responses=PROBLEMS,
    )
    async def change(
        user: Annotated[str, PathParameter(**_TEXT)],
        verb: FromPath[Verb],
        data: JSONBody[Govern],
    ) -> Governed:
        """What the person whom a profile describes decides: the next ranking request counts it.

        Muting and boosting change how the profile is read and can be taken back; erasing deletes what earlier events
        brought, of one word or of all.
        """
        return await services.writes.run(decide, services.user_id(user), verb, data)

    @delete(
        "/users/{user:str}",
        opt={"needs": "erase", "pool": "write"},
        status_code=200,
        summary="Delete a user",
        tags=["users"],
        operation_id="delete_user",
        responses=PROBLEMS,
    )
    async def gone(user: Annotated[str, PathParameter(**_TEXT)]) -> Removed:
        """Delete a user's events, profiles and decisions from store and log, and what they asked for and were shown
        from the logs of requests and exposures; files that another replica has open follow within a minute.
        """
        return await services.writes.run(services.erasures.forget, services.user_id(user))

    return Router("/", route_handlers=[interests, change, gone])


def muted_words(services: Services, governance: Governance) -> dict[str, list[str]]:
    """Event type → muted words; types without any are left out."""
    found = {event: governance.muted(event) for event in services.store.config.event_types}
    return {event: services.words.words(sorted(tokens)) for event, tokens in found.items() if tokens}


def boosted_words(services: Services, governance: Governance) -> dict[str, dict[str, float]]:
    """Event type → word → factor; types without any are left out."""
    found = {event: governance.boosts(event) for event in services.store.config.event_types}
    return {
        event: {services.words.word(token): factor for token, factor in boosts.items()}
        for event, boosts in found.items()
        if boosts
    }
