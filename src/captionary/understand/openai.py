"""`openai:URL#model`: captions from any server that speaks OpenAI's chat completions.

    pictures ──data URLs──▶ at most `concurrency` requests ──▶ answers, checked ──▶ captions
                                  ▲          │
                     cap reserved │          └── 429, 5xx, no or broken answer: wait, try again

vLLM, SGLang, `transformers serve`, GPT-4V and its successors, Gemini's compatible endpoint. What was answered is
remembered: when one picture of a batch fails, the others are not paid for again as the job asks one by one.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import hashlib
import io
import json
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from captionary.errors import bad_value
from captionary.understand.answers import MAX_BYTES, AnswerError, error_of, read_answer
from captionary.understand.captioner import Caption, StoppedError
from captionary.understand.endpoint import Endpoint, EndpointConfig, parse_endpoint
from captionary.understand.prompts import about_picture, load
from captionary.understand.spending import Account, Cap, Reserve, SpendingCap, Spent
from captionary.understand.untrusted import for_log

if TYPE_CHECKING:
    import aiohttp

__all__ = ["EndpointCaptioner", "EndpointError", "endpoint_fingerprint"]

_DECODING = "chat-1"
"""Raise the number when a change of code may change a caption."""
_LONGEST_SIDE = 2048
_QUALITY = 90  # of JPEG
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_HOPELESS = frozenset({401, 402, 403, 404, 405, 407, 410})
"""Key, money, model or address are wrong: every further request would fail alike."""
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
_IN_A_ROW = 16
"""After so many requests that failed for good in a row, with no answer between, the server counts as down."""
_REMEMBERED = 4096


class EndpointError(Exception):
    """This picture got no caption, and why; others may."""


class EndpointCaptioner:
    """Pictures in, captions out, by a server; also texts in, texts out.

    Args:
        where: `URL#model`, the URL up to and with the version.
        prompt: a prompt's name or path; empty: `caption`.
        max_new_tokens: at which a caption is cut.
        config: how the server is called and what it may cost.
        base: where a relative prompt path starts.

    Raises:
        CaptionaryError: a malformed address, an unset key, no such prompt, or aiohttp is missing.
    """

    def __init__(
        self,
        where: str,
        *,
        prompt: str = "",
        max_new_tokens: int = 32,
        config: EndpointConfig | None = None,
        base: Path = Path(),
    ) -> None:
        try:
            import aiohttp  # noqa: F401 - an extra; better missed now than at the first picture
        except ImportError:
            todo = "pip install 'captionary[endpoint]'"
            raise bad_value("openai", "aiohttp", "installed", todo=todo) from None
        self.config = config or EndpointConfig()
        self.endpoint = parse_endpoint(where)
        self.name = f"openai:{self.endpoint.url}#{self.endpoint.model}"
        self.prompt = about_picture(load(prompt or "caption", base))
        self.max_new_tokens = max_new_tokens
        self.image_size = self.config.image_side
        self.fingerprint = endpoint_fingerprint(where, prompt, max_new_tokens, self.config, base)
        # The key is looked up anew for each batch: no attribute holds it, no pickle carries it to a cluster.
        _ = self.config.key
        self.account = Account(self.config, max_new_tokens)
        self._cap: Cap = SpendingCap(self.account)
        self._lock = threading.Lock()
        self._answered: OrderedDict[bytes, Caption] = OrderedDict()
        self._failed: dict[bytes, EndpointError] = {}
        self._stopped: str = ""
        self._not_before = 0.0  # monotonic seconds; the server asked everybody to wait
        self._lost_in_a_row = 0
        self._any_answer = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_cap": None, "account": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self.account = Account(
            self.config, self.max_new_tokens
        )  # a copy counts for itself, until it shares a cap
        self._cap = SpendingCap(self.account)

    @property
    def spent(self) -> Spent:
        """What this captioner has used so far; where it shares a cap, all that do."""
        return self._cap.spent

    def share(self, cap: Cap) -> None:
        """Spend under a cap that others spend under too, from now on."""
        self._cap = cap

    def caption(
        self, images: Sequence[Image.Image], texts: Sequence[str | None] | None = None
    ) -> list[Caption]:
        """One caption per picture, in order; `texts` fill the prompt's {title}, one per picture.

        Raises:
            EndpointError: a picture got none. All others are remembered: asked again, they cost nothing.
            StoppedError: a cap is reached, or key, model or server are wrong; `answered` has what was got.
        """
        titles: Sequence[str | None] = [None] * len(images) if texts is None else texts
        if len(titles) != len(images):
            raise ValueError(f"{len(titles)} texts for {len(images)} pictures")
        bodies = []
        for image, title in zip(images, titles, strict=True):
            picture = {"type": "image_url", "image_url": {"url": _data_url(image, self.config.image_side)}}
            bodies.append(self._body([picture, {"type": "text", "text": self.prompt.fill(title=title)}]))
        return self._ask(bodies)

    def complete(self, texts: Sequence[str]) -> list[str]:
        """What the model answers to each text, no picture given: for profiles of users in words.

        Args:
            texts: whole prompts, e.g. ``prompts.load("user_profile").fill(history=captions)``.

        Raises:
            EndpointError, StoppedError: as `caption`.
        """
        return [answer.text for answer in self._ask([self._body(text) for text in texts])]

    def _body(self, content: object) -> bytes:
        fields = {
            **self.config.extra,
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": content}],
            self.config.token_limit: self.max_new_tokens,
        }
        if self.config.temperature is not None:
            fields["temperature"] = self.config.temperature
        return json.dumps(fields).encode()

    def _ask(self, bodies: Sequence[bytes]) -> list[Caption]:
        """Answers in order; every failure is raised only after all others came in."""
        keys = [hashlib.blake2b(body, digest_size=16).digest() for body in bodies]
        with self._lock:
            told_now = [key for key in keys if key in self._failed]
            wanted = {
                key: body
                for key, body in zip(keys, bodies, strict=True)
                if key not in self._answered and key not in self._failed
            }
            if wanted and not self._stopped:
                _run(self._all(wanted))
            answers = [self._answered.get(key) for key in keys]
            failures = [self._failed[key] for key in keys if key in self._failed]
            # A failure is remembered for one further question: the job's, picture by picture.
            for key in told_now if len(bodies) > 1 else keys:
                self._failed.pop(key, None)
            while len(self._answered) > max(_REMEMBERED, len(bodies)):
                self._answered.popitem(last=False)
        got = [answer for answer in answers if answer is not None]
        if len(got) == len(answers):
            return got
        if len(got) + len(failures) < len(answers):
            raise StoppedError(self._stopped, answers)
        raise failures[0] if len(bodies) == 1 else EndpointError(f"{failures[0]} ({len(failures)} such)")

    async def _all(self, wanted: dict[bytes, bytes]) -> None:
        import aiohttp

        self._cap.open()
        gate = asyncio.Semaphore(self.config.concurrency)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self.config.key:
            headers["Authorization"] = f"Bearer {key}"
        connections = aiohttp.TCPConnector(limit=self.config.concurrency)
        # trust_env: companies reach such servers through HTTPS_PROXY.
        async with aiohttp.ClientSession(connector=connections, headers=headers, trust_env=True) as session:

            async def one(name: bytes, body: bytes) -> None:
                async with gate:
                    if self._stopped:
                        return
                    try:
                        self._answered[name] = await self._answer(session, body)
                        self._lost_in_a_row, self._any_answer = 0, True
                    except EndpointError as error:
                        self._failed[name] = error
                        self._count_lost(error)
                    except StoppedError as error:
                        self._stopped = self._stopped or str(error)

            await asyncio.gather(*(one(name, body) for name, body in wanted.items()))

    async def _answer(self, session: aiohttp.ClientSession, body: bytes) -> Caption:
        """One picture's caption, after as many tries as it takes and the config allows.

        Raises:
            EndpointError: none of them gave one.
            StoppedError: no further request makes sense, or none may be paid for.
        """
        for attempt in range(self.config.retries + 1):
            await self._pause()
            if self._stopped:
                raise StoppedError(self._stopped)
            held = await self._cap.reserve()
            if self._stopped:  # meanwhile, by another request
                await self._cap.settle(held, Reserve(0, 0))
                raise StoppedError(self._stopped)
            used: Reserve | None = None
            wait: float | None = None
            try:
                status, asked_wait, raw = await self._post(session, body)
                if status == 200:
                    answer = read_answer(raw, self.max_new_tokens)
                    if answer.input_tokens is not None and answer.output_tokens is not None:
                        used = Reserve(answer.input_tokens, answer.output_tokens)
                    return Caption(answer.text, answer.input_tokens or 0, answer.output_tokens or 0)
                used = Reserve(0, 0)  # no server charges for an error that it reports
                failure = self._refused(status, raw)
                if asked_wait is not None:
                    wait = asked_wait
            except AnswerError as error:
                used = None if error.used is None else Reserve(*error.used)
                failure = self._shown(str(error))
                if not error.again:
                    raise EndpointError(failure) from None
            except _transport_errors() as error:
                failure, sent = _transport_failure(error, self.config.timeout_s)
                used = None if sent else Reserve(0, 0)
            finally:
                # Also when Ctrl-C cancels the request: what nobody knows counts in full.
                await asyncio.shield(self._cap.settle(held, used))
            if attempt == self.config.retries:
                break
            self._hold_back(wait, failure)
            if wait is None:
                await asyncio.sleep(self._backoff(attempt))
        raise EndpointError(f"{failure}, after {self.config.retries + 1} tries")

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> tuple[int, float | None, bytes]:
        """(status, seconds that the server asks to wait, body of at most `MAX_BYTES`)."""
        import aiohttp

        async with session.post(
            f"{self.endpoint.url}/chat/completions",
            data=body,
            timeout=aiohttp.ClientTimeout(total=self.config.timeout_s),
            allow_redirects=False,  # the key goes where it was meant to go, and nowhere else
        ) as response:
            raw = bytearray()
            async for piece in response.content.iter_chunked(1 << 16):
                raw += piece
                if len(raw) > MAX_BYTES:
                    raise AnswerError(f"answer of over {MAX_BYTES:,} bytes")
            return response.status, _retry_after(response.headers.get("Retry-After")), bytes(raw)

    def _refused(self, status: int, raw: bytes) -> str:
        """What an error status means, in words.

        Raises:
            StoppedError: every further request would fail alike.
            EndpointError: another try of this one would.
        """
        code, said = error_of(raw)
        failure = self._shown(f"HTTP {status}" + (f" ({said})" if said else ""))
        if status in _HOPELESS or 300 <= status < 400 or code in _NO_MONEY:
            todo = "check the address, the model's name and the key"
            raise StoppedError(f"{self.name} refuses: {failure}; {todo}")
        if status not in _AGAIN:
            raise EndpointError(failure)
        return failure

    def _hold_back(self, asked: float | None, failure: str) -> None:
        """Hold everybody back for as long as the server asked."""
        if asked is None:
            return
        if asked > self.config.longest_wait_s:
            rule = f"longest_wait_s == {self.config.longest_wait_s:g}"
            raise StoppedError(f"{self.name} asks to wait {asked:.0f} s, beyond {rule}: {failure}")
        self._not_before = max(self._not_before, time.monotonic() + asked)

    async def _pause(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            # With jitter: else all come back in the same millisecond.
            await asyncio.sleep(left + random.uniform(0, self.config.backoff_s))

    def _backoff(self, attempt: int) -> float:
        """Full jitter: uniform below a bound that doubles (Brooker, AWS Architecture Blog, 2015)."""
        return random.uniform(0, min(self.config.longest_wait_s, self.config.backoff_s * 2**attempt))

    def _count_lost(self, error: EndpointError) -> None:
        self._lost_in_a_row += 1
        limit = max(_IN_A_ROW, 2 * self.config.concurrency)
        # A server that has answered may refuse a run of pictures for their content; a lost connection is no such thing.
        if self._lost_in_a_row >= limit and not (self._any_answer and str(error).startswith("HTTP 4")):
            self._stopped = (
                self._stopped or f"{self.name}: {self._lost_in_a_row} failures in a row, the last: {error}"
            )

    def _shown(self, text: str) -> str:
        """The text without the key, which some servers repeat."""
        key = self.config.key if self.config.api_key_env else ""
        return for_log(text.replace(key, "…") if key else text)


def endpoint_fingerprint(
    where: str, prompt: str, max_new_tokens: int, config: EndpointConfig, base: Path = Path()
) -> str:
    """Names a server's model by address, model, prompt's text, decoding and picture size; never by its key."""
    endpoint: Endpoint = parse_endpoint(where)
    asked = load(prompt or "caption", base).text
    settings = [config.temperature, config.image_side, dict(config.extra), _LONGEST_SIDE, _QUALITY]
    said = json.dumps([*endpoint, asked, max_new_tokens, settings, _DECODING], sort_keys=True, default=str)
    return "openai-" + hashlib.blake2b(said.encode(), digest_size=12).hexdigest()


def _data_url(image: Image.Image, side: int) -> str:
    scale = min(1.0, side / min(image.size), _LONGEST_SIDE / max(image.size))
    if scale < 1:
        size = [max(1, round(length * scale)) for length in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    held = io.BytesIO()
    image.convert("RGB").save(held, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def _retry_after(value: str | None) -> float | None:
    """Seconds from now of a Retry-After header, which has seconds or an HTTP date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(int(value)))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _transport_errors() -> tuple[type[BaseException], ...]:
    import aiohttp

    return aiohttp.ClientError, asyncio.TimeoutError, OSError


def _transport_failure(error: BaseException, timeout: float) -> tuple[str, bool]:
    """(in words, whether the request may have reached the server and cost something)."""
    import aiohttp

    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {timeout:g} s", True
    said = for_log(str(error), limit=120) or type(error).__name__
    return f"connection failed: {said}", not isinstance(error, aiohttp.ClientConnectorError)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, also where an event loop runs already (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
