"""Where a server of captions is, how it is called, and what it may cost: the settings of `openai:`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from captionary.errors import bad_value

__all__ = ["Endpoint", "EndpointConfig", "parse_endpoint"]

EXAMPLE = "http://localhost:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct"
_OURS = (
    "messages",
    "model",
    "n",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "best_of",
    "tools",
)


class Endpoint(NamedTuple):
    """An OpenAI-compatible server and one of its models."""

    url: str
    """Up to and with the version, no slash at the end: `https://host/v1`."""
    model: str
    """As the server names it."""


def parse_endpoint(text: str) -> Endpoint:
    """`URL#model` in two.

    Raises:
        CaptionaryError: another form, or a URL that carries a password or a query (keys belong into the environment).
    """
    url, _, model = text.partition("#")
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        well_formed = False
    if not well_formed or not model.strip():
        raise bad_value("openai", _without_secrets(text), f"URL#model, as openai:{EXAMPLE}")
    if parts.username or parts.password or parts.query:
        rule = "a URL without user, password or query"
        todo = "put the key into an environment variable and name that in endpoint.api_key_env"
        raise bad_value("openai", _without_secrets(text), rule, todo=todo)
    return Endpoint(url.rstrip("/"), model.strip())


def _without_secrets(text: str) -> str:
    """The URL as far as it may be shown: no user, no password, no query."""
    head, at, rest = text.rpartition("@")
    scheme = head.partition("://")[0] + "://" if "://" in head else ""
    return (f"{scheme}…@{rest}" if at else text).partition("?")[0]


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """How a server of captions is called, and what it may cost. For `openai:` only."""

    api_key_env: str = ""
    """Name of the environment variable that holds the key, such as OPENAI_API_KEY; empty: no key is sent."""
    concurrency: int = 8
    """Requests in flight at once, ≥ 1."""
    timeout_s: float = 60.0
    """Seconds for one request, from connecting to the last byte, > 0."""
    retries: int = 4
    """Further tries of a request that failed for the server's or the network's sake, ≥ 0."""
    backoff_s: float = 0.5
    """Longest wait before the first retry in seconds, > 0; it doubles with each, and the wait is drawn below it."""
    longest_wait_s: float = 120.0
    """Longest wait between tries in seconds, > 0; a server that asks for more (Retry-After) is given up on."""
    max_requests: int | None = None
    """Requests of one run in all, retries included, ≥ 0; none: no cap."""
    max_output_tokens: int | None = None
    """Tokens that the server may write in one run, ≥ 0; none: no cap."""
    max_cost: float | None = None
    """Money that one run may spend, in the currency of the prices, ≥ 0; none: no cap. Needs a price."""
    input_price: float = 0.0
    """Price of a million tokens read, ≥ 0."""
    output_price: float = 0.0
    """Price of a million tokens written, ≥ 0."""
    input_tokens: int = 4096
    """Tokens set aside for what one request reads (prompt and picture) until the answer says how many, ≥ 0."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit of tokens written."""
    temperature: float | None = 0.0
    """0 is greedy, 0 to 2; none: not sent, for models that refuse it. Part of the fingerprint."""
    image_side: int = 768
    """Pixels of the shorter side of pictures as they are sent, 16 to 2,048. Part of the fingerprint."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request, such as `{seed: 1}`. Part of the fingerprint; no place for keys."""

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0), ("input_tokens", 0)):
            if getattr(self, name) < least:
                raise bad_value(name, getattr(self, name), f">= {least}")
        for name in ("timeout_s", "backoff_s", "longest_wait_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise bad_value(name, getattr(self, name), "> 0 and finite")
        for name in ("max_requests", "max_output_tokens", "max_cost", "input_price", "output_price"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise bad_value(name, value, ">= 0 and finite")
        if self.max_cost is not None and not (self.input_price or self.output_price):
            todo = "give input_price and output_price per million tokens"
            raise bad_value("max_cost", self.max_cost, "with a price", todo=todo)
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise bad_value("temperature", self.temperature, "from 0 to 2")
        if not 16 <= self.image_side <= 2048:
            raise bad_value("image_side", self.image_side, "from 16 to 2048")
        for name in self.extra:
            if name in _OURS:
                raise bad_value("extra", name, "a field that captionary does not set itself")
        if self.api_key_env and not self.api_key_env.replace("_", "a").isalnum():
            # Shown by nobody: it may be the key itself.
            raise bad_value("api_key_env", "(hidden)", "the name of an environment variable, not the key")

    @property
    def capped(self) -> bool:
        """Whether there is any cap."""
        return any(cap is not None for cap in (self.max_requests, self.max_output_tokens, self.max_cost))

    @property
    def key(self) -> str:
        """The key from the environment, empty where none is asked for.

        Raises:
            CaptionaryError: the variable is not set, or holds what no header can carry.
        """
        if not self.api_key_env:
            return ""
        found = os.environ.get(self.api_key_env, "").strip()
        if not found or not found.isascii() or not found.isprintable():
            name = self.api_key_env if len(self.api_key_env) <= 40 else "(hidden)"
            raise bad_value("api_key_env", name, "a variable that is set to a key", todo=f"export {name}=…")
        return found
