"""What goes over the wire, with the rules that can be told by looking; OpenAPI is made of these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "Acknowledged",
    "Arm",
    "Event",
    "Events",
    "Explain",
    "Explained",
    "Govern",
    "Governed",
    "Health",
    "Item",
    "ItemUpload",
    "Model",
    "Pair",
    "Problem",
    "Profile",
    "ProfileToken",
    "Queued",
    "RankAnswer",
    "RankRequest",
    "Ready",
    "Removed",
]

_INT64 = {"ge": -(2**63), "le": 2**63 - 1}
Int64 = Annotated[int, Meta(**_INT64)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Identifier = Int64 | Text
Value = Int64 | float | Annotated[str, Meta(max_length=1000)] | bool | None
Weight = Annotated[float, Meta(ge=-1e6, le=1e6)]


class _In(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients send: a field with a wrong name is an error, not ignored."""


class _Out(msgspec.Struct, frozen=True, kw_only=True):
    """What they get."""


class Explain(_In, frozen=True):
    """Why the best candidates have their scores, as far as profile tokens met item tokens."""

    task: Name | None = None
    """Absent: the first."""
    items: Annotated[int, Meta(ge=1, le=20)] = 3
    """So many of the best by combined score."""
    pairs: Annotated[int, Meta(ge=1, le=50)] = 5
    """Of each, the most contributing first."""


class RankRequest(_In, frozen=True):
    """Candidates to rank for a user."""

    items: Annotated[
        list[Identifier],
        Meta(min_length=1, max_length=1000, extra_json_schema={"examples": [[1003, 1000, 1029]]}),
    ]
    """Ids of the candidates; the answer's scores come in this order."""
    user: Identifier | None = None
    """Absent: nobody that is known."""
    context: Annotated[dict[Name, Value], Meta(max_length=100)] = {}
    """Context column → value, as in the impressions table; one that is missing counts as in training."""
    vectors: Annotated[dict[Name, Annotated[list[float], Meta(max_length=4096)]], Meta(max_length=8)] = {}
    """Dense vectors of the user, where the ranker reads such."""
    combine: Annotated[dict[Name, Weight], Meta(max_length=50)] = {}
    """Task → weight in the combined score, in the place of the service's."""
    explain: Explain | None = None
    """Absent: no explanation, which would cost more than the ranking."""
    variant: Annotated[dict[Name, Name], Meta(max_length=20)] = {}
    """Experiment → arm to be forced, for those who test; needs a key with scope `admin`."""


class Model(_Out, frozen=True):
    """The ranker that answered."""

    name: str
    version: str
    """Digest of all that decides a score."""


class Arm(_Out, frozen=True):
    """What the user got of an experiment."""

    experiment: str
    arm: str | None
    """Absent: outside it."""
    reason: str
    """assigned, forced, holdout, layer holdout, out of range, not joined, stopped."""
    version: str = ""
    """Digest of the experiment's settings that decide who gets what."""


class Pair(_Out, frozen=True):
    """A token of the user's profile that met a token of the item."""

    event: str
    """Whose profile."""
    profile: str
    """Word."""
    item: str
    """Word."""
    contribution: float
    """In logits of the task."""
    share: float
    """Of all pairs' contributions, by size: 0 to 1."""


class Explained(_Out, frozen=True):
    """Of one candidate."""

    item: int | str
    task: str
    score: float
    pairs: list[Pair]


class RankAnswer(_Out, frozen=True):
    """Scores for each candidate, in the order of the request."""

    request_id: str
    model: Model
    experiments: list[Arm]
    as_of: datetime
    """Events before this moment count."""
    scores: dict[str, list[float]]
    """Task → calibrated probabilities (amounts of continuous tasks)."""
    combined: list[float]
    """Weighted sum of the tasks' scores."""
    order: list[int]
    """Places of the candidates, the best combined score first."""
    degraded: dict[str, int]
    """What was missing → for how many candidates (1: for the request); empty where nothing was."""
    explanations: list[Explained] | None = None


class Event(_In, frozen=True):
    """What a user did with an item."""

    user: Identifier
    item: Identifier
    event: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
    """Type, such as like."""
    timestamp: Annotated[datetime, Meta(tz=True)] | None = None
    """With a time zone; absent: now."""
    value: float | None = None
    """Such as seconds watched; >= 0."""
    key: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    """Idempotency key of this event: sent again under the same key it counts once."""


class Events(_In, frozen=True):
    """A batch."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=1000)]


class Acknowledged(_Out, frozen=True):
    """The events are on disk: each will have its effect once."""

    accepted: int
    positions: list[int]
    """In the log; an event that was there before has the position that it was given then."""
    without_profile: list[str]
    """Types among them of which the service makes no profiles; they are in the log alone."""


class ItemUpload(_In, frozen=True):
    """An item whose media lie at allowed addresses."""

    item: Identifier
    media: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=2000)]], Meta(min_length=1, max_length=64)
    ]
    """URIs on the service's list of allowed places."""
    title: Annotated[str, Meta(max_length=1000)] | None = None
    columns: Annotated[dict[Name, Value], Meta(max_length=100)] = {}
    """Further columns of the items table that the ranker reads."""


class Queued(_Out, frozen=True):
    """The upload is on disk: the item will have its tokens soon."""

    item: int | str
    position: int
    """In the log; `GET /items/{id}?position=` tells what became of it."""
    media: list[str]
    """Digests."""
    status: Literal["queued"] = "queued"


class Item(_Out, frozen=True):
    """What is known of an item."""

    item: int | str
    status: str
    """ok; queued: waits for the captioner; skipped by the gate or failed: ids alone rank it, see `reason`."""
    visible_at: datetime | None = None
    """Since when the ranking path has it so."""
    received_at: datetime | None = None
    title: str | None = None
    caption: str = ""
    """As the captioner gave it: text from a stranger's picture, to be escaped where it is shown."""
    tokens: list[str] = []
    """Words."""
    media: list[str] = []
    captioner: str = ""
    """Fingerprint."""
    reason: str = ""
    """Why there is no caption."""
    detail: str = ""
    revision: int = 0


class ProfileToken(_Out, frozen=True):
    """A word that a user's engagements are about."""

    token: int
    word: str
    weight: float
    """Share of the list: 0 to 1."""


class Profile(_Out, frozen=True):
    """A user's interests, as the ranker reads them."""

    user: int | str
    as_of: datetime
    events: dict[str, list[ProfileToken]]
    """Event type → tokens by falling weight."""
    mass: dict[str, float]
    """Event type → decayed number of events."""
    muted: dict[str, list[str]]
    """Event type → words that the user muted."""
    boosted: dict[str, dict[str, float]]
    """Event type → word → factor."""


class Govern(_In, frozen=True):
    """Which of a user's words."""

    word: Text | None = None
    """One of the tokenizer's; erase: absent for all."""
    event: Name = "*"
    """Event type, or `*` for all."""
    factor: Annotated[float, Meta(gt=0, le=100)] | None = None
    """Of boost: above 0 and up to 100; 1 takes a boost back."""


class Governed(_Out, frozen=True):
    """What holds for the user now."""

    user: int | str
    muted: dict[str, list[str]]
    boosted: dict[str, dict[str, float]]


class Removed(_Out, frozen=True):
    """What was deleted."""

    found: bool
    """Whether there was anything."""
    log_entries: int
    """Entries of the log that were deleted, waiting ones included."""
    requests: int = 0
    """Lines of the request log."""
    exposures: int = 0
    """Lines of the exposure log."""


class Health(_Out, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(_Out, frozen=True):
    """Whether the service should be sent requests."""

    ready: bool
    parts: dict[str, str]
    """Part → `ok`, or what is wrong."""


class Problem(_Out, frozen=True):
    """Why a request was not done."""

    status: int
    reason: str
    """A slug."""
    detail: str
    """For people."""
