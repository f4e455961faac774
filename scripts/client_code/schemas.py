"""Schemas of an OpenAPI document as Python types: TypedDicts and aliases."""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Schema = Mapping[str, Any]
WIDTH: Final = 92
_REF: Final = "#/components/schemas/"
_PLAIN: Final = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
}


class Names:
    """What each schema is called in Python: `JobOut` is `Job`, unless there is a `Job` too."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._names = {
            name: short if (short := name.removesuffix("Out")) and short not in schemas else name
            for name in schemas
        }

    def of(self, name: str) -> str:
        """The Python name of a schema."""
        return self._names[name]

    def annotation(self, schema: Schema) -> str:
        """The type of a value."""
        if "$ref" in schema:
            return self.of(schema["$ref"].removeprefix(_REF))
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return _union([self.annotation(option) for option in schema[union]])
        if "allOf" in schema:
            return self.annotation(schema["allOf"][0])
        if "const" in schema:
            return f"Literal[{schema['const']!r}]"
        if "enum" in schema:
            return f"Literal[{', '.join(map(repr, schema['enum']))}]"
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return _union([self.annotation({**schema, "type": kind}) for kind in kinds])
        if kinds == "array":
            return f"list[{self.annotation(schema.get('items', {}))}]"
        if kinds == "object":
            by_pattern = next(iter(schema.get("patternProperties", {}).values()), None)
            values = by_pattern or schema.get("additionalProperties")
            inner = self.annotation(values) if isinstance(values, dict) else "Any"
            return f"dict[str, {inner}]"
        return _PLAIN.get(str(kinds), "Any")


def definition(name: str, schema: Schema, names: Names) -> str:
    """The statement that defines a schema's type."""
    called = names.of(name)
    if "properties" not in schema:
        meaning = names.annotation(schema)
        quoted = f'"{meaning}"' if any(references(schema)) else meaning
        return f"{called}: TypeAlias = {quoted}\n"
    required = schema.get("required", ())
    fields = {
        field: names.annotation(kind)
        if field in required
        else f"NotRequired[{names.annotation(kind)}]"
        for field, kind in schema["properties"].items()
    }
    if any(keyword.iskeyword(field) or not field.isidentifier() for field in fields):
        pairs = ", ".join(f'"{field}": "{kind}"' for field, kind in fields.items())
        return f'{called} = TypedDict("{called}", {{{pairs}}})\n'
    lines = [f"class {called}(TypedDict):", docstring(schema.get("description", ""), 4), ""]
    lines += [f"    {field}: {kind}" for field, kind in fields.items()]
    return "\n".join(lines) + "\n"


def docstring(text: str, indent: int) -> str:
    """A docstring of any text, wrapped."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\n|\n(?=- )", text.strip())]
    wrapped = [textwrap.fill(part, WIDTH - indent) for part in paragraphs if part]
    body = "\n\n".join(wrapped).replace("\\", "\\\\").replace('"""', "'''") or "See openapi.yaml."
    quoted = f'"""{body}"""' if "\n" not in body and not body.endswith('"') else f'"""{body}\n"""'
    return textwrap.indent(quoted, " " * indent)


def references(value: Any) -> Iterator[str]:
    """Names of the schemas that a part of the document mentions."""
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(_REF):
            yield reference.removeprefix(_REF)
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def closure(start: set[str], schemas: Mapping[str, Schema]) -> set[str]:
    """These schemas and all that they are made of."""
    found, left = set[str](), list(start)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += references(schemas[name])
    return found


def _union(options: Sequence[str]) -> str:
    different = list(dict.fromkeys(options))
    if "Any" in different:
        return "Any"
    return " | ".join([o for o in different if o != "None"] + ["None"] * ("None" in different))
