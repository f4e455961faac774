"""Operations of an OpenAPI document as methods, blocking and asynchronous."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from scripts.client_code.schemas import Names, Schema, docstring

JSON: Final = "application/json"
_TEXTS: Final = ("application/x-ndjson", "application/jsonl", "text/plain")
_PAGING: Final = frozenset({"page_token", "page_size"})


@dataclass(frozen=True)
class Answer:
    """What a 2xx answer holds, and the row list of a page."""

    kind: Literal["json", "text", "none"]
    type: str
    media: str = ""
    rows: str = ""
    row_type: str = ""


@dataclass(frozen=True)
class Operation:
    """One operation, as far as a client sees it."""

    name: str
    tag: str
    method: str
    path: str
    summary: str
    path_parameters: tuple[str, ...]
    query: Mapping[str, tuple[str, bool]]  #: name -> (type, required)
    body: str
    body_required: bool
    content_type: str
    answer: Answer

    @property
    def pages(self) -> bool:
        """Whether its answer is one page of a list."""
        return bool(self.answer.rows) and "page_token" in self.query


def operations(document: Mapping[str, Any], names: Names) -> Iterator[Operation]:
    """Every operation that a client can offer; what answers with other bytes is left out."""
    for path, item in document["paths"].items():
        for method, described in item.items():
            answer = _answer(described["responses"], document["components"]["schemas"], names)
            if answer is not None:
                yield _operation(path, method, described, names, answer)


def _operation(
    path: str, method: str, described: Mapping[str, Any], names: Names, answer: Answer
) -> Operation:
    parameters = described.get("parameters", [])
    body = described.get("requestBody", {})
    content = body.get("content", {})
    media = JSON if JSON in content or not content else next(iter(content))
    return Operation(
        name=described["operationId"],
        tag=described["tags"][0],
        method=method.upper(),
        path=path,
        summary=described["summary"],
        path_parameters=tuple(re.findall(r"{(\w+)}", path)),
        query={
            p["name"]: (names.annotation(p["schema"]), bool(p.get("required")))
            for p in parameters
            if p["in"] == "query"
        },
        body=names.annotation(content[JSON]["schema"]) if JSON in content else "",
        body_required=bool(body.get("required")),
        content_type="" if media == JSON else media,
        answer=answer,
    )


def _answer(
    responses: Mapping[str, Any], schemas: Mapping[str, Schema], names: Names
) -> Answer | None:
    good = [response for status, response in responses.items() if status.startswith("2")]
    contents = [content for r in good for content in r.get("content", {}).values()]
    if any(content.get("schema", {}).get("format") == "binary" for content in contents):
        return None
    bodies = [
        response["content"][JSON]["schema"]
        for response in good
        if JSON in response.get("content", {})
    ]
    if bodies:
        types = list(dict.fromkeys(names.annotation(schema) for schema in bodies))
        rows = _rows(bodies[0], schemas, names)
        return Answer("json", " | ".join(types), JSON, *rows)
    for response in good:
        for media in _TEXTS:
            if media in response.get("content", {}):
                return Answer("text", "str", media)
    if good and not any(response.get("content") for response in good):
        return Answer("none", "None")
    return None


def _rows(
    schema: Schema, schemas: Mapping[str, Schema], names: Names
) -> tuple[str, str] | tuple[()]:
    whole = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    fields = whole.get("properties", {})
    lists = [name for name, field in fields.items() if field.get("type") == "array"]
    if "next_page_token" not in fields or len(lists) != 1:
        return ()
    return lists[0], names.annotation(fields[lists[0]]["items"])


def methods(operation: Operation, *, asynchronous: bool) -> str:
    """The method of an operation, and the iterator over all of its pages."""
    define, wait = ("async def", "await ") if asynchronous else ("def", "")
    answer = operation.answer
    text = (
        f"    {define} {operation.name}({_signature(operation)}) -> {answer.type}:\n"
        f"{docstring(operation.summary + '.', 8)}\n"
        f"        return {wait}self._send({_call(operation, answer.type)})\n"
    )
    if operation.pages:
        kind = "AsyncIterator" if asynchronous else "Iterator"
        name = operation.name.replace("list_", "iter_", 1)
        text += (
            f"\n    def {name}({_signature(operation, pages=True)}) -> {kind}[{answer.row_type}]:\n"
            f"{docstring(operation.summary + ': all pages, or at most `limit` rows.', 8)}\n"
            f"        return self._pages({_call(operation, 'Any', pages=True)}, "
            f'"{answer.rows}", limit)\n'
        )
    return text


def _signature(operation: Operation, *, pages: bool = False) -> str:
    parts = ["self", *(f"{name}: str" for name in operation.path_parameters)]
    if operation.body:
        parts.append(
            f"body: {operation.body}"
            if operation.body_required
            else f"body: {operation.body} | None = None"
        )
    elif operation.content_type:
        parts.append("content: bytes | Path")
    named = [
        f"{_python(name)}: {kind}"
        if required
        else f"{_python(name)}: {kind.removesuffix(' | None')} | None = None"
        for name, (kind, required) in operation.query.items()
        if not (pages and name in _PAGING)
    ]
    if pages:
        named.append("limit: int | None = None")
    if operation.method != "GET":
        named.append("idempotency_key: str | None = None")
    return ", ".join(parts + (["*", *named] if named else []))


def _call(operation: Operation, type_: str, *, pages: bool = False) -> str:
    path = f'"{operation.path}"'
    if operation.path_parameters:
        template = re.sub(r"{\w+}", "{}", operation.path)
        path = f'at("{template}", {", ".join(operation.path_parameters)})'
    parts = [f'"{operation.method}"', path]
    query = [name for name in operation.query if not (pages and name in _PAGING)]
    if query:
        parts.append("{" + ", ".join(f'"{name}": {_python(name)}' for name in query) + "}")
    if operation.body:
        parts.append("body=body")
    elif operation.content_type:
        parts += ["content=content", f'content_type="{operation.content_type}"']
    if operation.method != "GET":
        parts.append("key=idempotency_key")
    if operation.answer.kind != "json":
        parts.append(f'answer="{operation.answer.kind}"')
    if operation.answer.kind == "text":
        parts.append(f'headers={{"Accept": "{operation.answer.media}"}}')
    return f"Call[{type_}]({', '.join(parts)})"


def _python(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
