"""From what was typed to the body of a request."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from arrowquant.errors import ArrowQuantError

_SPAN = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[dhm])")
_SIZE = re.compile(r"(?P<number>[0-9]{1,15}(\.[0-9]{1,9})?) ?(?P<unit>([KMGkmg][iI]?)?[bB])?")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_PLACE = re.compile(r"(?P<connection>[a-z0-9][a-z0-9_-]{0,62}):(?!//)(?P<prefix>.*)", re.DOTALL)


def usage(detail: str, hint: str = "") -> ArrowQuantError:
    """What was typed cannot be meant."""
    return ArrowQuantError("usage", detail, hint)


@dataclass(frozen=True, slots=True)
class Options:
    """The recipe options; None and False mean not given."""

    bits: int | None = None
    profile: str | None = None
    method: str | None = None
    group_size: int | None = None
    granularity: str | None = None
    symmetric: bool = False
    scale_bits: int | None = None
    codebook: str | None = None
    rotation: str | None = None
    unbias: float | None = None
    modality: str | None = None
    calibration: dict[str, str] | None = None
    smoothing: str | None = None
    budget: str | None = None
    search: bool = False
    activations: str | None = None
    rules: list[str] | None = None
    no_fallback: bool = False
    fail_below: bool = False
    min_sqnr: float | None = None
    min_cosine: float | None = None
    min_mean_cosine: float | None = None
    max_rho: float | None = None
    max_group_rho: float | None = None
    ladder: str | None = None


def place(text: str, what: str) -> dict[str, str]:
    """`connection:prefix` as the API wants it."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise usage(
            f"{what} {text!r} is not of the form connection:prefix",
            "A server reads and writes in its named connections, e.g. models:dream-7b/. "
            "For folders and s3:// addresses of your own use `arrowquant quantize`.",
        )
    return match.groupdict()


def calibration(text: str | None) -> dict[str, str] | None:
    """`connection:key` of a calibration file as the API wants it."""
    if text is None:
        return None
    found = place(text, "--calibration")
    return {"connection": found["connection"], "key": found["prefix"]}


def recipe(file: Path | None, options: Options) -> dict[str, Any]:
    """The file's recipe, if there is one, with the options on top."""
    fields = _read(file) if file is not None else {}
    given: dict[str, Any] = {
        "bits": options.bits,
        "profile": options.profile,
        "method": options.method,
        "group_size": options.group_size,
        "granularity": options.granularity,
        "symmetric": options.symmetric or None,
        "scale_bits": options.scale_bits,
        "codebook": options.codebook,
        "rotation": options.rotation,
        "unbias": options.unbias,
        "modality": options.modality,
        "budget": None if options.budget is None else budget(options.budget),
        "smoothing": None if options.smoothing is None else smoothing(options.smoothing),
    }
    fields |= {key: value for key, value in given.items() if value is not None}
    if options.search:
        fields["budget"] = _searched(fields.get("budget"))
    if options.activations is not None:
        fields["activations"] = fields.get("activations", {}) | activations(options.activations)
    if options.calibration is not None:
        fields["calibration"] = fields.get("calibration", {}) | options.calibration
    if options.rules:
        fields["rules"] = [*(_rule(text) for text in options.rules), *fields.get("rules", [])]
    gate = _gate(options)
    if gate:
        fields["fallback"] = {**fields.get("fallback", {}), **gate}
    return fields


def _gate(options: Options) -> dict[str, Any]:
    given = {
        "enabled": False if options.no_fallback else None,
        "on_miss": "fail" if options.fail_below else None,
        "min_sqnr_db": options.min_sqnr,
        "min_cosine": options.min_cosine,
        "min_mean_cosine": options.min_mean_cosine,
        "max_rho": options.max_rho,
        "max_group_rho": options.max_group_rho,
        "ladder": None if options.ladder is None else ladder(options.ladder),
    }
    return {key: value for key, value in given.items() if value is not None}


def _searched(found: Any) -> dict[str, Any]:
    """A budget with a search for sizes of groups."""
    if found is None:
        raise usage("--search needs a budget", "Give --budget, such as 3.0 bits per weight.")
    asked = found if isinstance(found, dict) else {"bits_per_weight": found}
    return {"search": {}} | asked


def ladder(text: str) -> list[int]:
    """`2,3,4,8`: the widths that a tensor climbs."""
    try:
        return [int(step) for step in text.split(",")]
    except ValueError:
        raise usage(f"--ladder {text!r} is no list of widths", "For instance 2,3,4,8.") from None


def activations(text: str) -> dict[str, Any]:
    """A width in bits, or a mode."""
    return {"bits": int(text)} if text.isascii() and text.isdigit() else {"mode": text}


def smoothing(text: str) -> dict[str, Any]:
    """`best`, or a strength from 0 to 1."""
    if text == "best":
        return {}
    try:
        return {"alpha": float(text)}
    except ValueError:
        raise usage(f"--smoothing {text!r} is no strength", "Write 0 to 1, or best.") from None


def budget(text: str) -> dict[str, Any]:
    """`3.0` is bits per weight; `35MB` or `2.5GiB` is bytes of the whole artifact."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise usage(f"--budget {text!r} is no size", "Write 3.0 (bits per weight), 35MB or 2.5GiB.")
    unit = match["unit"]
    if not unit:
        return {"bits_per_weight": float(match["number"])}
    step = 1024 if unit[1:2] in ("i", "I") else 1000
    power = " KMG".index(unit[0].upper()) if unit[0] not in "bB" else 0
    return {"bytes": int(float(match["number"]) * step**power)}


def labels(texts: list[str] | None) -> dict[str, str]:
    """`key=value` pairs."""
    result = {}
    for text in texts or []:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise usage(f"--label {text!r} is not of the form key=value")
        result[key] = value
    return result


def moment(text: str, what: str) -> str:
    """A time from now on (`90d`, `12h`, `30m`), or an RFC 3339 time as it is."""
    match = _SPAN.fullmatch(text)
    if match is None:
        if "T" not in text:
            raise usage(f"{what} {text!r} is no time", "Write 90d, 12h, or 2027-01-31T00:00:00Z.")
        return text
    span = timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
    return (datetime.now(UTC) + span).isoformat(timespec="seconds")


def _rule(text: str) -> dict[str, Any]:
    pattern, separator, action = text.rpartition("=")
    if not separator or not pattern:
        raise usage(
            f"--rule {text!r} says nothing", "Write 'GLOB=keep' or 'GLOB=BITS', e.g. '*.mlp.*=8'."
        )
    if action == "keep":
        return {"match": pattern, "action": "keep"}
    if not (action.isascii() and action.isdigit()):
        raise usage(
            f"--rule {text!r}: after '=' comes 'keep' or a width in bits, not {action!r}",
            "For instance '*.mlp.*=8'.",
        )
    return {"match": pattern, "bits": int(action)}


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        fields = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise usage(f"--recipe {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise usage(f"--recipe {file} is not valid: {error}") from None
    if not isinstance(fields, dict):
        raise usage(f"--recipe {file} is not a table of fields")
    return fields
