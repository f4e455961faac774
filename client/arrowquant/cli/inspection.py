"""What `inspect` and `verify` find out and show."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from arrowquant.artifact.findings import Verification
from arrowquant.artifact.reader import Artifact
from arrowquant.cli import render

WORST_SHOWN = 5
METRICS = (
    *("relmse", "sqnr_db", "cosine", "max_abs_error"),
    *("rho", "worst_group", "worst_group_rho"),
)


def inspect(model: Artifact) -> dict[str, Any]:
    """The artifact as one JSON value. Reads manifest and report only."""
    recorded = {
        str(row.get("name")): row
        for row in model.report.get("tensors") or []
        if isinstance(row, dict)
    }
    tensors = [_tensor(model, name, recorded.get(name, {})) for name in model]
    scored = [t for t in tensors if _number(t["sqnr_db"]) is not None]
    scored.sort(key=lambda t: float(t["sqnr_db"]))
    manifest = model.manifest
    return {
        "name": model.name,
        "format_version": manifest.get("format_version"),
        "totals": _object(manifest.get("totals")),
        "recipe": _object(_object(manifest.get("recipe")).get("resolved")),
        "engine": _object(manifest.get("engine")),
        "parts": len(model.parts),
        "states": dict(Counter(t["state"] for t in tensors)),
        "quality": _quality(scored),
        "roles": _roles(tensors),
        "worst": [t["name"] for t in scored[:WORST_SHOWN]],
        "calibration": _object(manifest.get("calibration")),
        "worst_groups": _worst_groups(tensors),
        "escalations": manifest.get("escalations") or [],
        "warnings": manifest.get("warnings") or [],
        "tensors": tensors,
    }


def _tensor(model: Artifact, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    tensor = model[name]
    stored = 0 if tensor.tied_to else record.get("stored_bytes")
    return {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "role": tensor.role,
        "codec": tensor.codec,
        "bits": tensor.bits,
        "group_size": tensor.group_size,
        "state": tensor.state,
        "reason": tensor.reason,
        "tied_to": tensor.tied_to,
        "elements": tensor.elements,
        "source_bytes": tensor.nbytes,
        "stored_bytes": stored if isinstance(stored, int) else tensor.stored_bytes,
        **{key: None if tensor.tied_to else _number(record.get(key)) for key in METRICS},
    }


def _worst_groups(tensors: list[dict[str, Any]]) -> list[str]:
    """Tensors whose output suffers most at some time, worst first."""
    told = [t for t in tensors if t["worst_group_rho"] is not None]
    told.sort(key=lambda t: -float(t["worst_group_rho"]))
    return [t["name"] for t in told[:WORST_SHOWN]]


def _quality(scored: list[dict[str, Any]]) -> dict[str, float | None]:
    sqnr = [float(t["sqnr_db"]) for t in scored]
    cosine = [float(t["cosine"]) for t in scored if _number(t["cosine"]) is not None]
    return {
        "mean_sqnr_db": math.fsum(sqnr) / len(sqnr) if sqnr else None,
        "min_sqnr_db": min(sqnr, default=None),
        "mean_cosine": math.fsum(cosine) / len(cosine) if cosine else None,
        "min_cosine": min(cosine, default=None),
    }


def _roles(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor["role"] or "other", stored_as(tensor)].append(tensor)
    rows = []
    for (role, how), members in sorted(groups.items()):
        sqnr = [float(t["sqnr_db"]) for t in members if t["sqnr_db"] is not None]
        rows.append(
            {
                "role": role,
                "stored_as": how,
                "tensors": len(members),
                "source_bytes": sum(t["source_bytes"] for t in members),
                "stored_bytes": sum(t["stored_bytes"] for t in members),
                "mean_sqnr_db": math.fsum(sqnr) / len(sqnr) if sqnr else None,
                "min_sqnr_db": min(sqnr, default=None),
            }
        )
    return rows


def stored_as(tensor: Mapping[str, Any]) -> str:
    """`4 bits`, `raw BF16` or `tied`."""
    if tensor["tied_to"]:
        return "tied"
    return f"{tensor['bits']} bits" if tensor["bits"] else f"raw {tensor['dtype']}"


def tables(found: dict[str, Any], *, every_tensor: bool) -> Iterator[RenderableType]:
    """What `inspect` prints."""
    yield _summary(found)
    yield ""
    yield _by_role(found["roles"])
    if every_tensor:
        yield ""
        yield _by_tensor(found["tensors"], why=True)
    elif found["worst"]:
        worst = [t for name in found["worst"] for t in found["tensors"] if t["name"] == name]
        yield Text("\nfurthest from the source", style="bold")
        yield _by_tensor(worst, why=False)
    if found["worst_groups"]:
        yield Text("\noutputs that suffer most at some time", style="bold")
        yield _by_group(found)
    for warning in found["warnings"]:
        text = warning.get("message", warning) if isinstance(warning, dict) else warning
        yield f"[yellow]warning:[/] {render.clean(text)}"


def _summary(found: dict[str, Any]) -> RenderableType:
    totals, quality = found["totals"], found["quality"]
    rows: list[tuple[str, Any]] = [("model", found["name"])]
    if "parameters" in totals:
        rows.append(("parameters", f"{totals['parameters']:,}"))
    parts = "part" if found["parts"] == 1 else "parts"
    rows.append(("size", render.totals_line(totals) + f", {found['parts']} {parts}"))
    recipe = found["recipe"]
    if recipe:
        keys = ("profile", "bits", "method", "granularity", "group_size", "symmetric")
        rows.append(("recipe", ", ".join(f"{k} {recipe[k]}" for k in keys if k in recipe)))
    words = {"DONE": "as planned", "KEPT": "kept raw", "FALLBACK": "wider than planned"}
    words["TIED"] = "tied"
    counts = ", ".join(f"{n} {words.get(state, state)}" for state, n in found["states"].items())
    rows.append(("tensors", f"{len(found['tensors'])}: {counts}"))
    if quality["mean_sqnr_db"] is not None:
        text = f"SQNR mean {quality['mean_sqnr_db']:.2f} dB, worst {quality['min_sqnr_db']:.2f} dB"
        if quality["mean_cosine"] is not None:
            text += f"; cosine mean {quality['mean_cosine']:.5f}, worst {quality['min_cosine']:.5f}"
        rows.append(("quality", text))
    if found["engine"]:
        rows.append(("made with", ", ".join(f"{k} {v}" for k, v in found["engine"].items())))
    return render.facts(rows)


def _by_role(roles: list[dict[str, Any]]) -> RenderableType:
    # SQNR in dB: the unit stands in the head, so that 80 columns hold the widest rows there are.
    numbers = ("tensors", "source", "stored", "mean dB", "worst dB")
    table = render.columns("role", "stored as", *numbers, right=numbers, fold=("role", "stored as"))
    for row in roles:
        table.add_row(
            render.clean(row["role"]),
            row["stored_as"],
            str(row["tensors"]),
            render.size(row["source_bytes"]),
            render.size(row["stored_bytes"]),
            _two_digits(row["mean_sqnr_db"]),
            _two_digits(row["min_sqnr_db"]),
        )
    return table


def _by_group(found: dict[str, Any]) -> RenderableType:
    numbers = ("output error", "in its worst group")
    table = render.columns("tensor", *numbers, "group", right=numbers, fold=("tensor",))
    named = {t["name"]: t for t in found["tensors"]}
    for name in found["worst_groups"]:
        t = named[name]
        errors = ("" if t[key] is None else f"{t[key]:.4g}" for key in ("rho", "worst_group_rho"))
        table.add_row(render.clean(name), *errors, _group(t["worst_group"], found["calibration"]))
    return table


def _group(number: float | None, calibration: dict[str, Any]) -> str:
    """A time bin by its range, as far as the manifest tells it: `7: timestep 250 to 500`."""
    if number is None:
        return ""
    place, edges = int(number), calibration.get("edges")
    text = f"{place}"
    if isinstance(edges, list) and 0 <= place < len(edges) - 1:
        low, high = _number(edges[place]), _number(edges[place + 1])
        if low is not None and high is not None:
            text += f": {render.clean(calibration.get('domain'))} {low:g} to {high:g}"
    return text


def _by_tensor(tensors: list[dict[str, Any]], *, why: bool) -> RenderableType:
    numbers = ("stored", "SQNR dB", "cosine")
    names = ("tensor", "shape", "stored as", *numbers, *(("why",) if why else ()))
    table = render.columns(*names, right=numbers, fold=("tensor", "why"))
    for t in tensors:
        row = (
            render.clean(t["name"]),
            "x".join(map(str, t["shape"])) or "scalar",
            stored_as(t),
            render.size(t["stored_bytes"]),
            _two_digits(t["sqnr_db"]),
            "" if t["cosine"] is None else f"{t['cosine']:.5f}",
            render.clean(t["reason"]),
        )
        table.add_row(*row[: len(names)])
    return table


def verification(console: Console, result: Verification) -> None:
    """What `verify` prints when it is done; the problems follow elsewhere."""
    scored = [t for t in result.tensors if t.relmse is not None]
    raw = sum(t.exact is True for t in result.tensors)
    rows: list[tuple[str, Any]] = [
        ("parts", f"{result.parts}, {render.size(result.part_bytes)}"),
        ("tensors", f"{len(result.tensors)} in {result.tiles} tiles, {result.weights:,} weights"),
    ]
    if result.compared:
        rows.append(("raw", f"{raw} equal to the source, byte for byte"))
    measured = sorted((t.sqnr_db, t.name) for t in scored if t.sqnr_db is not None)
    if measured:
        mean = math.fsum(value for value, _ in measured) / len(measured)
        rows.append(
            (
                "quality",
                f"SQNR mean {mean:.2f} dB, worst {measured[0][0]:.2f} dB ({measured[0][1]})",
            )
        )
    verdict = Text("whole", style="bold green")
    if not result.ok:
        count = len(result.problems)
        verdict = Text(f"{count} problem{'s' if count > 1 else ''}", style="bold red")
    console.print(render.facts([*rows, ("verdict", verdict)]))


def _two_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _number(value: object) -> float | None:
    ok = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if ok else None  # type: ignore[arg-type]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
