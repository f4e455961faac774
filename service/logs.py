"""Logs: one line per event, JSON for machines or coloured text for a terminal, secrets taken out.

Code logs through `structlog.get_logger(__name__)`; what libraries log through `logging` passes the
same processors. `bind` adds what identifies the work (job_id, unit, request_id) to every line.
"""

from __future__ import annotations

import contextvars
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog

from service import tracing

REDACTED = "[redacted]"

_SECRET_KEY = re.compile(
    r"secret|token|authorization|passw(or)?d|passphrase|credential|cookie|signature|api[-_]?key|"
    r"access[-_]?key|private[-_]?key|\bdsn$",
    re.IGNORECASE,
)
# In free text: the password of a URL, the signature of a presigned one, a header, one of our keys.
_SECRET_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]*(?=@)", re.IGNORECASE), r"\g<keep>"),
    (
        re.compile(
            r"(?P<keep>[?&](?:x-amz-(?:signature|credential|security-token)|signature|"
            r"awsaccesskeyid|sig|token)=)[^&\s'\"]+",
            re.IGNORECASE,
        ),
        r"\g<keep>",
    ),
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE), r"\g<keep>"),
    (re.compile(r"(?P<keep>aq_[A-Za-z0-9]+_)[\w-]{8,}"), r"\g<keep>"),
    # Secrets of webhooks, ids of AWS keys, private keys.
    (re.compile(r"(?P<keep>whsec_)[\w+/=-]{8,}"), r"\g<keep>"),
    (re.compile(r"(?P<keep>\b(?:AKIA|ASIA|AROA|AIDA))[A-Z0-9]{12,}"), r"\g<keep>"),
    (re.compile(r"(?P<keep>-----BEGIN [A-Z ]*PRIVATE KEY-----)[^-]+"), r"\g<keep>"),
    # What somebody else's text calls a secret: password=..., "secretAccessKey": "...".
    (
        re.compile(
            r"(?P<keep>(?:passw(?:or)?d|passphrase|secret|token|credential|authorization|api[-_]?key|"
            r"(?:access|private)[-_]?key(?:[-_]?id)?)['\"]?\s*[=:]\s*['\"]?)"
            r"(?!\[redacted\]|(?:bearer|basic)\s)[^\s'\"&,;})\]]{4,}",
            re.IGNORECASE,
        ),
        r"\g<keep>",
    ),
)
# Words that look secret to the pattern above and are not.
_PLAIN_KEYS = frozenset({"page_token", "tokens", "tokenizer"})
_MAX_DEPTH = 6
# What a library repeats while a collector or a store is away is worth a line a minute.
_SELDOM = ("opentelemetry",)
_SELDOM_S = 60.0
Sink = Callable[[dict[str, Any]], None]
_sink: Sink | None = None
_QUIET = (
    "alembic",
    "boto3",
    "botocore",
    "urllib3",
    "numba",
    "kombu",
    "amqp",
    "asyncio",
    "celery.redirected",
    # A ring received, a ring answered: the workshop logs the units themselves.
    "celery.worker.strategy",
    "celery.app.trace",
    # A line for each question that somebody else's server answered.
    "httpx",
    "httpcore",
)


def configure(level: str = "info", log_format: Literal["auto", "console", "json"] = "auto") -> None:
    """Set up logging of this process. "auto" is text on a terminal and JSON elsewhere."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        tracing.add_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    # Exceptions become text before secrets are looked for.
    last: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact,
        _tell_sink,
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    handler.addFilter(_Seldom())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def send_to(sink: Sink | None) -> None:
    """Also give every line about a job, without its secrets, to `sink`; it must not block."""
    global _sink
    _sink = sink


def _tell_sink(_: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if _sink is not None and "job_id" in event:
        _sink(dict(event))
    return event


class _Seldom(logging.Filter):
    """Lets few lines through of those that would come again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._next = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_SELDOM):
            return True
        now = time.monotonic()
        through = now >= self._next
        if through:
            self._next = now + _SELDOM_S
        return through


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of an event: by the names of its fields, and by their form in any text."""
    return {key: _clean(key, value, 0) for key, value in event.items()}


def _clean(key: str, value: Any, depth: int) -> Any:
    if key not in _PLAIN_KEYS and _SECRET_KEY.search(key) and value not in (None, "", False):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth >= _MAX_DEPTH:
        return redact_text(repr(value))
    if isinstance(value, dict):
        return {str(k): _clean(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item, depth + 1) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


def redact_text(text: str) -> str:
    """The text with everything taken out that has the form of a secret."""
    for pattern, keep in _SECRET_TEXT:
        text = pattern.sub(keep + REDACTED, text)
    return text


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Add fields to every line logged inside: job_id, unit, request_id."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield


def in_context(function: Callable[[], object]) -> Callable[[], None]:
    """For a thread that goes on with this one's work: its lines and spans belong to the same."""
    context = contextvars.copy_context()

    def run() -> None:
        context.run(function)

    return run
