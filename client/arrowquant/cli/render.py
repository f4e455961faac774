"""What the commands show."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from arrowquant.errors import ApiError, ArrowQuantError

STYLES = {
    "SUCCEEDED": "green",
    "RUNNING": "cyan",
    "QUEUED": "yellow",
    "CANCELLING": "yellow",
    "FAILED": "red",
    "EXPIRED": "red",
    "CANCELLED": "dim",
}


def stdout() -> Console:
    """Made anew each time: the stream may have been replaced."""
    return Console(highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def line(markup: str) -> None:
    """A line of its own on standard output, however long: paths and commands are copied."""
    stdout().print(markup, soft_wrap=True)


def as_json(value: Any) -> None:
    """JSON on standard output: indented for people; for pipes one line, and only ASCII, since
    some readers end lines at other signs than the newline."""
    person = sys.stdout.isatty()
    text = json.dumps(value, indent=2 if person else None, ensure_ascii=not person)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def error(problem: ArrowQuantError) -> None:
    """`error[code]: what (where)`, the wrong fields if any, and a hint."""
    console = stderr()
    place = f" ({problem.place})" if problem.where else ""
    _line(
        console,
        f"[bold red]error[/]{escape(f'[{problem.code}]')}: {clean(problem.detail)}{clean(place)}",
    )
    if isinstance(problem, ApiError):
        for field in problem.errors:
            pointer, detail = str(field.get("pointer", "")), str(field.get("detail", ""))
            if field.get("line"):
                place = f" at [bold]{clean(pointer)}[/]" if pointer else ""
                code = escape(f"[{field.get('code', '')}]")
                _line(console, f"  line {clean(field['line'])}{place} {code} {clean(detail)}")
                continue
            if detail in problem.detail:  # said already
                detail = ""
            if detail or pointer not in problem.detail:
                _line(console, f"  at [bold]{clean(pointer)}[/] {clean(detail)}".rstrip())
        if problem.request_id and problem.status >= 500:
            _line(console, f"  request id {clean(problem.request_id)}")
    if problem.hint:
        _line(console, f"[cyan]hint:[/] {clean(problem.hint)}")


def _line(console: Console, markup: str) -> None:
    console.print(markup, soft_wrap=True)


def clean(value: object) -> str:
    """Foreign text made safe for a terminal: no control characters, no markup."""
    return escape(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    )


def size(nbytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(nbytes) < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people: 4.2 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def state(name: object) -> Text:
    """A state in its colour."""
    return Text(str(name), style=STYLES.get(str(name), ""))


def facts(rows: Iterable[tuple[str, Any]]) -> Table:
    """Names and values, one a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else clean(value))
    return table


def columns(*names: str, right: Iterable[str] = (), fold: Iterable[str] = ()) -> Table:
    """An empty table; numbers to the right, long names folded and never cut."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name not in fold,
            overflow="fold",
        )
    return table


def when(text: object) -> str:
    """A time of the API in local time, to the second."""
    moment = parse_time(text)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else "-"


def parse_time(text: object) -> datetime | None:
    """An RFC 3339 time, or None."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def now() -> datetime:
    """The present moment, with its offset."""
    return datetime.now(UTC)


def job(value: Mapping[str, Any]) -> Table:
    """One job, everything that is known in a few lines."""
    progress = value.get("progress") or {}
    rows: list[tuple[str, Any]] = [("job", value.get("id", "?"))]
    if value.get("name"):
        rows.append(("name", value["name"]))
    phase = f" · {str(value['phase']).lower()}" if value.get("phase") else ""
    rows.append(("state", state(value.get("state")).append(phase, style="dim")))
    if value.get("labels"):
        rows.append(("labels", ", ".join(f"{k}={v}" for k, v in value["labels"].items())))
    rows.append(("progress", _progress(progress)))
    if progress.get("tensors_total"):
        rows.append(("tensors", _tensors(progress)))
    rows.append(("created", when(value.get("create_time"))))
    start, end = parse_time(value.get("start_time")), parse_time(value.get("end_time"))
    if start and end:
        rows.append(("took", duration((end - start).total_seconds())))
    if (value.get("attempt") or 0) > 1:
        rows.append(("attempt", value["attempt"]))
    totals = (value.get("summary") or {}).get("totals") or {}
    if "artifact_bytes" in totals:
        rows.append(("artifact", totals_line(totals)))
    rows += [("warning", w.get("message", w.get("code", "?"))) for w in value.get("warnings") or []]
    return facts(rows)


def totals_line(totals: Mapping[str, Any]) -> str:
    """`12.3 MiB of 98.0 MiB, 4.13 bits per weight`."""
    stored = totals.get("artifact_bytes", totals.get("payload_bytes", 0))
    text = f"{size(stored)} of {size(totals.get('source_bytes', 0))}"
    bpw = totals.get("bits_per_weight")
    return text + (f", {bpw:.3f} bits per weight" if isinstance(bpw, int | float) else "")


def rates(progress: Mapping[str, Any]) -> str:
    """How fast the source comes, and the target goes once there is something of it."""
    written = progress.get("bytes_written_per_s")
    told = f"{size(progress['bytes_per_s'])}/s"
    return f"{told} in, {size(written)}/s out" if written else told


def _progress(progress: Mapping[str, Any]) -> str:
    parts = [f"{float(progress.get('percent') or 0):.1f} %"]
    if progress.get("bytes_total"):
        done, total = progress.get("bytes_done", 0), progress["bytes_total"]
        parts.append(f"{size(done)} of {size(total)}")
    if progress.get("bytes_per_s"):
        parts.append(rates(progress))
    if progress.get("eta_s"):
        parts.append(f"{duration(progress['eta_s'])} left")
    return ", ".join(parts)


def _tensors(progress: Mapping[str, Any]) -> str:
    text = f"{progress.get('tensors_done', 0)} of {progress['tensors_total']}"
    for key, words in (("tensors_kept", "kept raw"), ("tensors_fallback", "wider than planned")):
        if progress.get(key):
            text += f", {progress[key]} {words}"
    return text


def jobs(values: Iterable[Mapping[str, Any]]) -> Table:
    """Jobs, one a line."""
    table = columns("job", "name", "state", "done", "created", right=["done"], fold=["name"])
    for value in values:
        percent = float((value.get("progress") or {}).get("percent") or 0)
        table.add_row(
            clean(value.get("id", "?")),
            clean(value.get("name") or ""),
            state(value.get("state")),
            f"{percent:.0f} %",
            when(value.get("create_time")),
        )
    return table


def event(value: Mapping[str, Any]) -> str:
    """One line of a job's history."""
    data = value.get("data") or {}
    parts = []
    for key, item in data.items() if isinstance(data, Mapping) else [("", data)]:
        if item not in (None, "", [], {}):
            text = json.dumps(item) if isinstance(item, dict | list) else str(item)
            parts.append(f"[dim]{clean(key)}[/] {clean(text)}")
    number, kind = value.get("seq", ""), value.get("type", "")
    return f"{number:>5}  {when(value.get('time'))}  [bold]{clean(kind):<8}[/]  {'  '.join(parts)}"


def log_line(value: Mapping[str, Any]) -> str:
    """One line of a job's log."""
    level, data = str(value.get("level", "")), value.get("data") or {}
    about = [
        f"[dim]{name}[/] {clean(value[name])}" for name in ("unit", "tensor") if value.get(name)
    ]
    about += [f"[dim]{clean(key)}[/] {clean(item)}" for key, item in data.items()]
    colour = {"warning": "yellow", "error": "red"}.get(level, "dim")
    return (
        f"{value.get('seq', ''):>5}  {when(value.get('time'))}  [{colour}]{clean(level):<7}[/]  "
        f"[bold]{clean(value.get('event', ''))}[/]  {'  '.join(about)}"
    )
