"""The lines of a batch, one after the other: what they ask for, and everything that is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Final, Literal

from pydantic import StringConstraints, ValidationError

from service.domain.batch import BatchLine
from service.domain.errors import ArrowQuantError, FieldError
from service.domain.fields import pointer, reason
from service.domain.ids import increasing_ids
from service.domain.outputs import output_ids
from service.domain.places import Place
from service.domain.ports import ObjectStores
from service.domain.recipe_book import RecipeBook
from service.domain.spec import JobRequest
from service.domain.webhooks import Webhooks
from service.domain.wire import Wire
from service.usecases.batch_sources import SourceChecks
from service.usecases.plan import open_place
from service.usecases.recipes import expanded
from service.usecases.submit import check_notify, endpoint_ids, new_job

# Wrong fields told of one line; a line of a megabyte could have a hundred thousand.
ERRORS_OF_A_LINE: Final = 20


class BatchRequestLine(Wire):
    """One line of a batch. `method` and `url` may be there and say nothing new."""

    custom_id: Annotated[
        str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")
    ]
    method: Literal["POST"] = "POST"
    url: Literal["/v1/jobs"] = "/v1/jobs"
    body: JobRequest


class LineChecks:
    """All that can be told of lines by themselves and beside each other, in bounded memory."""

    def __init__(
        self,
        tenant: str,
        batch_id: str,
        stores: ObjectStores,
        webhooks: Webhooks,
        recipes: RecipeBook,
    ) -> None:
        self._recipes = recipes
        self._tenant, self._batch_id, self._stores = tenant, batch_id, stores
        self._root = cache(lambda connection: stores.place(tenant, connection))
        self._endpoints = cache(lambda: endpoint_ids(webhooks, tenant))
        self._first_with: dict[bytes, int] = {}
        self._connections: dict[str, ArrowQuantError | None] = {}
        # Jobs of a batch are as old as its lines, so that they are begun in that order.
        self._ids = increasing_ids("job")
        self.sources = SourceChecks(tenant, stores)

    def check(self, number: int, text: bytes) -> BatchLine | list[FieldError]:
        """The line's job, or what is wrong with it."""
        try:
            line = BatchRequestLine.model_validate_json(text)
            request = expanded(line.body, self._recipes, self._tenant)
            root = self._root(request.output.connection)
            job = new_job(request, self._tenant, root, self._batch_id)
            check_notify(request, self._endpoints)
            self._open(request.source, "/source")
            self._open(request.output, "/output")
        except ValidationError as error:
            items = error.errors(include_url=False, include_input=False)
            return [
                FieldError(
                    "" if item["type"] == "json_invalid" else pointer(item["loc"]),
                    reason(item),
                    number,
                    "invalid_spec",
                )
                for item in items[:ERRORS_OF_A_LINE]
            ]
        except ArrowQuantError as error:
            return of_line(number, error)
        twice = self._twice(number, line, output_ids(job.resolved))
        if not twice:
            self.sources.note(number, request)
        return twice or BatchLine(number, line.custom_id, replace(job, id=next(self._ids)))

    def _open(self, place: Place, where: str) -> None:
        """Each connection is looked up once."""
        name = place.connection
        if name not in self._connections:
            try:
                open_place(self._stores, self._tenant, place, where)
                self._connections[name] = None
            except ArrowQuantError as error:
                self._connections[name] = error
        known = self._connections[name]
        if known is not None:
            at = f"{where}/connection"
            raise ArrowQuantError(
                known.code, known.detail, known.hint, {}, (FieldError(at, known.detail),)
            )

    def _twice(
        self, number: int, line: BatchRequestLine, outputs: Sequence[str]
    ) -> list[FieldError]:
        output = line.body.output
        root = f"{self._root(output.connection)}:{output.prefix}"
        mine = [("/custom_id", f"i{line.custom_id}", "invalid_spec", "custom_id")]
        mine += [
            ("/body/output/prefix", f"o{root}{name}/", "output_in_use", "output")
            for name in outputs
        ]
        found = []
        for at, value, code, what in mine:
            digest = hashlib.blake2b(value.encode(), digest_size=16).digest()
            first = self._first_with.setdefault(digest, number)
            if first != number:
                found.append(FieldError(at, f"line {first} has the same {what}", number, code))
        return found


def of_line(number: int, error: ArrowQuantError) -> list[FieldError]:
    """An error of a request as errors of the line that it stands in."""
    fields = error.errors or (FieldError(str(error.where.get("pointer", "")), error.detail),)
    return [FieldError(f"/body{f.pointer}", f.detail, number, error.code) for f in fields]
