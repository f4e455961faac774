"""Write what the chart's schema says of the service's settings, from the settings themselves.

    make chart

A test holds the file to it. The rest of the schema is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.settings import Grant, Settings

SCHEMA = Path(__file__).parents[1] / "helm" / "arrowquant" / "values.schema.json"
# Settings that are no entry of `settings`.
ELSEWHERE = frozenset(
    {
        # The chart decides.
        *("data_dir", "host", "port", "threads", "max_memory_bytes", "connections_file"),
        # `metrics.port`, `connections` and `grants` of the values.
        *("metrics_host", "metrics_port", "connections", "credentials"),
        # In a Secret, which `secret` names: never a value.
        *("database_url", "broker_url", "secret_keys"),
    }
)
_SHOWN_ELSEWHERE = ("title", "description", "default", "format")


def settings() -> dict[str, Any]:
    """The entries of `settings`, each with its type and bounds."""
    schema = Settings.model_json_schema()
    entries = {
        name: _plain(entry, schema["$defs"])
        for name, entry in schema["properties"].items()
        if name not in ELSEWHERE
    }
    for name, entry in entries.items():
        if name.startswith("quota_"):
            entries[name] = {"anyOf": [*entry.get("anyOf", [entry]), {"const": "none"}]}
    return entries


def grant() -> dict[str, Any]:
    """One entry of `grants`."""
    schema = Grant.model_json_schema()
    plain: dict[str, Any] = _plain(schema, schema.get("$defs", {}))
    return plain


def _plain(entry: Any, definitions: dict[str, Any]) -> Any:
    """Without references, without what only readers need, and without null: a value that is left
    out is what null would say."""
    if isinstance(entry, list):
        return [_plain(one, definitions) for one in entry]
    if not isinstance(entry, dict):
        return entry
    if "$ref" in entry:
        return _plain(definitions[entry["$ref"].rpartition("/")[2]], definitions)
    plain = {
        key: {name: _plain(one, definitions) for name, one in value.items()}
        if key == "properties"
        else _plain(value, definitions)
        for key, value in entry.items()
        if key not in _SHOWN_ELSEWHERE
    }
    if "anyOf" not in plain:
        return plain
    kept = [one for one in plain.pop("anyOf") if one != {"type": "null"}]
    return plain | (kept[0] if len(kept) == 1 else {"anyOf": kept})


def main() -> None:
    """Write the file."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["settings"]["properties"] = settings()
    schema["$defs"]["grant"] = grant()
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
