"""The base of everything that callers send."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_NUMBERS: Final = {"int": "an integer", "float": "a number"}


def _by_json_type(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_by_json_type(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _by_json_type(value) for key, value in schema.items()}
    kind = schema.get("type")
    if kind == "bool":
        return core_schema.no_info_before_validator_function(_is_boolean, inner)
    if kind in _NUMBERS:
        return core_schema.no_info_before_validator_function(_is_number(_NUMBERS[kind]), inner)
    return inner


def _is_boolean(value: Any) -> Any:
    if not isinstance(value, bool):
        raise PydanticCustomError("bool_type", "Input should be true or false")
    return value


def _is_number(name: str) -> Any:
    def check(value: Any) -> Any:
        if isinstance(value, bool | str | bytes):
            raise PydanticCustomError("number_type", "Input should be {name}", {"name": name})
        return value

    return check


class Wire(BaseModel):
    """Immutable; unknown fields are an error, and so is a value of another JSON type: "3" and true
    are no numbers, and 1 is no boolean, as the schema says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Pydantic's own `strict` would also refuse lists for tuples, texts for times and 2.0 for 2.
        made: CoreSchema = _by_json_type(handler(source))
        return made
