"""Secrets do not reach a log: keys, session cookies and passwords in URLs are blotted out of every record."""

from __future__ import annotations

import logging
import re
import traceback

__all__ = ["Redaction", "redacted", "watch_logs"]

_SECRETS = (
    (re.compile(r"cap_([0-9a-f]{12})_[A-Za-z0-9_-]+"), r"cap_\1_***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s,;\"']+"), r"\1 ***"),
    (re.compile(r"(captionary_(?:session|csrf)=)[^\s;,\"']+"), r"\1***"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@]*@"), r"\1***@"),
    (re.compile(r"(?i)([?&](?:[a-z-]*signature|sig|token|key|x-amz-[a-z-]+)=)[^\s&\"']+"), r"\1***"),
)


def redacted(text: str) -> str:
    """`text` without secrets."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class Redaction(logging.Filter):
    """Blots secrets out of a record: its message, its arguments, and the exception that it tells of."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true; the record is changed."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: logging says so by itself
            return True
        record.msg, record.args = redacted(message), None
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return True


def watch_logs(level: int = logging.INFO) -> None:
    """Log to the standard error stream, without secrets: what we and the server say, and others' warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.addFilter(Redaction())  # of the handler: those of a logger do not see its children's records
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("captionary", "uvicorn"):
        logging.getLogger(name).setLevel(level)
