"""What a server of captions answered, checked: never trusted to be JSON, of the schema, or of sensible size."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from captionary.understand.untrusted import for_log

__all__ = ["MAX_BYTES", "Answer", "AnswerError", "error_of", "read_answer"]

MAX_BYTES = 1 << 20
"""Of an answer's body: a caption takes a thousandth of it."""
_CHARACTERS_A_TOKEN = 32
"""More than any tokenizer's average over a caption: beyond it the server did not keep to its limit."""


class Answer(NamedTuple):
    """A completion as it counts."""

    text: str
    """Stripped; may be empty: the model had nothing to say."""
    input_tokens: int | None
    """As the server counts; None where it does not."""
    output_tokens: int | None


class AnswerError(Exception):
    """An answer that is none, with the reason.

    Attributes:
        again: whether another try may help.
        used: (input, output) tokens where the answer says so.
    """

    def __init__(self, reason: str, *, again: bool = False, used: tuple[int, int] | None = None) -> None:
        super().__init__(reason)
        self.again = again
        self.used = used


def read_answer(raw: bytes, max_new_tokens: int) -> Answer:
    """A chat completion's text and token counts.

    Raises:
        AnswerError: cut off or not JSON (again); another schema, no text, refused, or longer than was asked for.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise AnswerError("answer that is not JSON", again=True) from None
    read, written = _usage(body)
    used = None if read is None or written is None else (read, written)

    def bad(reason: str) -> AnswerError:
        return AnswerError(reason, used=used)

    try:
        choice = body["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        content = message["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise bad("answer without choices[0].message.content") from None
    if not isinstance(message, dict):
        raise bad("answer whose message is not an object")
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        raise bad(f"refused: {for_log(message['refusal'], limit=80)}")
    if ended == "content_filter":
        raise bad("refused by the server's content filter")
    if content is None and ended == "length":
        raise bad("cut before it said anything; raise max_new_tokens (models that think first need more)")
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise bad(f"content that is not text but {type(content).__name__}")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise bad("content that is not text but half a character") from None
    if "\0" in content:
        raise bad("content that is not text: it holds NUL")
    text = content.strip()
    if len(text) > _CHARACTERS_A_TOKEN * max_new_tokens or (written or 0) > max_new_tokens + 1:
        raise bad(f"over-long answer: {len(text)} characters, {written or '?'} tokens for {max_new_tokens}")
    return Answer(text, read, written)


def error_of(raw: bytes) -> tuple[str, str]:
    """(code, message) of an error's body, as far as it has them; the message is safe to log."""
    try:
        body: Any = json.loads(raw)
        error = body.get("error", body) if isinstance(body, dict) else body
        if isinstance(error, list) and error:  # Gemini's
            error = error[0].get("error", error[0])
        if isinstance(error, dict):
            said = error.get("message") or error.get("detail") or ""
            return str(error.get("code") or error.get("type") or ""), for_log(str(said), limit=120)
        return "", for_log(str(error), limit=120)
    except (ValueError, AttributeError, RecursionError):
        return "", for_log(raw[:500].decode("utf-8", "replace"), limit=120)


def _usage(body: object) -> tuple[int | None, int | None]:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None, None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    read, written = (c if isinstance(c, int) and not isinstance(c, bool) and c >= 0 else None for c in counts)
    return read, written
