"""What the local commands show in a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from service.domain.access import ALL_SCOPES
from service.domain.errors import ArrowQuantError
from service.domain.job import Event, EventType, JobRecord, JobState
from service.settings import Settings
from service.wiring import wire
from workers.listening import address
from workers.standalone import Broker


def follow(
    console: Console,
    records: Iterable[JobRecord],
    news: Callable[[int], Iterable[Event]] = lambda _: (),
) -> JobRecord:
    """Draw a job's progress until it ends; its last record.

    news  the events past a number; the warnings among them are said while a job waits
    """
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    last: JobRecord | None = None
    seen = 0
    with Progress(*columns, console=console, disable=console.quiet) as bar:
        task = bar.add_task("planning", total=None)
        for last in records:
            progress = last.progress
            phase = last.phase.value.lower() if last.phase else last.state.value.lower()
            done = progress.bytes_total if last.state is JobState.SUCCEEDED else progress.bytes_done
            bar.update(task, description=phase, total=progress.bytes_total or None, completed=done)
            for event in news(seen) if last.event_seq > seen else ():
                if event.type is EventType.WARNING:
                    bar.console.print(_trouble(event.data), highlight=False, soft_wrap=True)
                seen = event.seq
        if last is not None and last.state is JobState.SUCCEEDED:
            bar.update(task, description="done")
    if last is None:
        raise ValueError("a job has at least one record")
    return last


def _trouble(data: dict[str, Any]) -> str:
    text = f"[yellow]warning:[/] {escape(str(data.get('message') or data.get('reason') or data))}"
    if data.get("retry_in_s"):
        text += f"; tried again in {data['retry_in_s']:.0f} s"
    return text


def outcome(console: Console, summary: dict[str, Any], destination: str) -> None:
    """The result in a few lines."""
    totals, counts, quality = summary["totals"], summary["counts"], summary["quality"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("artifact", escape(destination))
    table.add_row(
        "size",
        f"{size(totals['artifact_bytes'])} of {size(totals['source_bytes'])}, "
        f"{totals['bits_per_weight']:.3f} bits per weight, everything counted",
    )
    table.add_row("tensors", _counts(counts))
    if quality["mean_sqnr_db"] is not None:
        table.add_row(
            "quality",
            f"SQNR mean {quality['mean_sqnr_db']:.2f} dB, worst {quality['min_sqnr_db']:.2f} dB; "
            f"cosine mean {quality['mean_cosine']:.5f}, worst {quality['min_cosine']:.5f}",
        )
    console.print(table)
    console.print(
        f"Next: [bold]arrowquant inspect {escape(destination)}[/]", highlight=False, soft_wrap=True
    )


def plan(console: Console, announced: dict[str, Any], *, every_tensor: bool) -> None:
    """A plan: by role, or tensor by tensor, then the totals."""
    console.print(_by_tensor(announced) if every_tensor else _by_role(announced))
    totals, looks = announced["totals"], announced["modality"]
    what = looks["modality"] or "unknown"
    console.print(
        f"modality {what}, {looks['part'].replace('_', ' ')}: "
        + escape("; ".join(looks["evidence"]) or "nothing says so"),
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{totals['parameters']:,} parameters, {size(totals['source_bytes'])} "
        f"→ {size(totals['artifact_bytes'])} in {_parts(totals['units'])}, "
        f"{totals['bits_per_weight']:.3f} bits per weight, everything counted",
        highlight=False,
        soft_wrap=True,
    )
    if announced["budget"] is not None and announced["budget"]["estimate"]:
        console.print(
            f"an estimate: the budget is {size(announced['budget']['bytes'])}; widths are chosen from "
            f"the errors of {announced['budget']['measured_tensors']} tensors, for which "
            f"{size(announced['budget']['read_twice_bytes'])} are read once more",
            highlight=False,
            soft_wrap=True,
        )
    for warning in announced["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning['message'])}", highlight=False)


def served(console: Console, settings: Settings, broker: Broker) -> None:
    """What a person needs to use a server that has just started."""
    url = address(settings)
    lines = [
        f"[bold]ArrowQuant[/] on {url}   (API description: {url}/openapi.json)",
        f"  data       {escape(str(settings.data_dir))}",
        f"  broker     {broker.what}",
    ]
    for name, connection in settings.connections.items():
        place = getattr(connection, "path", None) or f"s3://{getattr(connection, 'bucket', '')}"
        lines.append(f"  store      {name} = {escape(str(place))}")
    for line in lines:  # never broken: paths and addresses are copied from here
        console.print(line, highlight=False, soft_wrap=True)
    deps = wire(settings)
    if settings.auth and not any(key.revoke_time is None for key in deps.keys.list()):
        # It may do everything: whoever starts the server makes the other keys with it.
        _, secret = deps.keys.create("default", "first key", ALL_SCOPES)
        console.print("  first key, shown this once:", highlight=False)
        console.print(f"export ARROWQUANT_URL={url} ARROWQUANT_API_KEY={secret}", soft_wrap=True)
    deps.close()


def error(console: Console, problem: ArrowQuantError) -> None:
    """One failure: what, where, and what to do."""
    place = ", ".join(f"{key} {value}" for key, value in problem.where.items() if value != "")
    console.print(
        f"[bold red]error[/]{escape(f'[{problem.code}]')}: {escape(problem.detail)}"
        + (f" ({escape(place)})" if place else ""),
        highlight=False,
        soft_wrap=True,
    )
    if problem.hint:
        console.print(f"[cyan]hint:[/] {escape(problem.hint)}", highlight=False, soft_wrap=True)


def size(nbytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024 or unit == "GiB":
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    raise AssertionError


def _parts(count: int) -> str:
    return f"{count} part" + ("" if count == 1 else "s")


def _counts(counts: dict[str, int]) -> str:
    named = (("done", "as planned"), ("fallback", "wider than planned"), ("kept", "kept raw"))
    parts = [f"{counts[key]} {words}" for key, words in (*named, ("tied", "tied")) if key in counts]
    return f"{counts['tensors']}: " + ", ".join(parts)


def _by_role(announced: dict[str, Any]) -> Table:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for tensor in announced["tensors"]:
        how = f"{tensor['bits']} bits" if tensor["action"] == "quantize" else tensor["action"]
        groups[tensor["role"], how, tensor["reason"]].append(tensor)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("role", "left"), ("stored as", "left"), ("tensors", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("source", justify="right")
    table.add_column("stored", justify="right")
    table.add_column("why")
    for (role, how, reason), tensors in sorted(groups.items()):
        table.add_row(
            role,
            how,
            str(len(tensors)),
            size(sum(t["source_bytes"] for t in tensors)),
            size(sum(t["stored_bytes"] for t in tensors)),
            escape(reason),
        )
    return table


def _by_tensor(announced: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("tensor", "shape", "dtype", "stored as"):
        table.add_column(name, overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("why")
    for t in announced["tensors"]:
        how = f"{t['bits']} bits, {t['codec']}" if t["action"] == "quantize" else t["action"]
        shape = "x".join(map(str, t["shape"])) or "scalar"
        table.add_row(
            escape(t["name"]), shape, t["dtype"], how, f"{t['stored_bytes']:,}", escape(t["reason"])
        )
    return table


def folded(console: Console, summary: dict[str, Any], dst: str) -> None:
    """What `fold` did, a row for each kind of group."""
    table = Table("family", "made by", "groups", "folded", "error before", "after", box=None)
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for group in summary["groups"]:
        kinds[group["family"], group["kind"]].append(group)
    for (family, kind), groups in kinds.items():
        before, after = (
            sum(group[f"error_{when}"] for group in groups) / len(groups)
            for when in ("before", "after")
        )
        changed = sum(group["alpha"] is not None for group in groups)
        table.add_row(family, kind, str(len(groups)), str(changed), f"{before:.3g}", f"{after:.3g}")
    console.print(table)
    console.print(f"{len(summary['left'])} left as they are; written to {escape(dst)}")
