"""What is asked of a server, as values; nothing here reaches a network.

A `Call` is one request of the API. Longer conversations (retries, pages, streams, downloads) are
scripts: generators that hand out effects and are told what became of each. `sync` and `aio` play
them; everything that has to be decided is decided in a script, once for both.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx

from arrowquant.errors import ApiError

T = TypeVar("T")
Scalar = str | int | float | bool | None
Params = Mapping[str, Scalar | Sequence[str]]
Query = dict[str, str | int | float | Sequence[str]]
Timeout = httpx.Timeout | float | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request of the API; T is what its answer holds.

    params   query parameters; those that are None are left out
    body     sent as JSON unless None
    content  sent as it is: bytes, or a file that is read anew for every attempt
    key      the Idempotency-Key; made where it is needed and not given
    answer   json, text, or none: what a 2xx answer is read as
    """

    method: str
    path: str
    params: Params = field(default_factory=dict)
    body: Any = None
    content: bytes | Path | None = None
    content_type: str = ""
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Literal["json", "text", "none"] = "json"


@dataclass(frozen=True)
class Request:
    """A call made ready to be sent, the same for each attempt."""

    method: str
    path: str
    params: Query
    content: bytes | Path | None
    headers: Mapping[str, str]
    timeout: Timeout = None
    follow_redirects: bool = False


@dataclass(frozen=True)
class Send:
    """Send a request and read the whole answer: an `httpx.Response`, or ApiError without one."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Send a request and read its body piece by piece: an `httpx.Response`, or ApiError.

    Of an answer that is not 2xx the whole body has been read. The stream is closed by the next
    Send, Open or Sleep, and by the end of the script.
    """

    request: Request


@dataclass(frozen=True)
class Read:
    """The next piece of the open stream; b"" at its end."""


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Call a function that uses the disk or the processor; what it returns, or its OSError."""

    run: Callable[[], Any]


@dataclass(frozen=True)
class Emit:
    """Hand a value to whoever follows the script."""

    value: Any


Effect = Send | Open | Read | Sleep | Work | Emit
Script = Generator[Effect, Any, T]
READ: Final = Read()


class Play(Generic[T]):
    """A script on its way: iterating gives effects, `outcome` takes what became of the last one.

    `result` is what the script returned, once the iteration has ended.
    """

    result: T

    def __init__(self, script: Script[T]) -> None:
        self._script = script
        self.outcome: Any = None

    def __iter__(self) -> Iterator[Effect]:
        return self

    def __next__(self) -> Effect:
        outcome, self.outcome = self.outcome, None
        try:
            if isinstance(outcome, BaseException):
                return self._script.throw(outcome)
            return self._script.send(outcome)
        except StopIteration as end:
            self.result = end.value
            raise

    def close(self) -> None:
        """End the script where it stands."""
        self._script.close()


def at(template: str, *parts: str) -> str:
    """A path with its variable parts filled in, each quoted as one step."""
    for part in parts:
        if not part or part in (".", ".."):
            raise ApiError("not_found", f"a part of the path {template} is missing")
    return template.format(*(quote(part, safe="") for part in parts))


def present(params: Params) -> Query:
    """What is not None, booleans as the API writes them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
        if value is not None
    }
