"""The commands that talk to a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from arrowquant.cli import follow, render, request, session
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url, Yes
from arrowquant.errors import JobFailed

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    for command in (submit, status, watch, list_jobs, cancel, retry, events, logs, fetch, delete):
        name = "list" if command is list_jobs else None
        app.command(name, rich_help_panel=panel)(command)


def submit(
    src: Annotated[str, typer.Argument(metavar="SRC", help="Where the weights are: connection:prefix.")],
    dst: Annotated[str, typer.Argument(metavar="DST", help="Where the artifact goes: connection:prefix.")],
    bits: Annotated[int | None, typer.Option(help="2, 3, 4 or 8; the profile's if not given.")] = None,
    profile: Annotated[str | None, typer.Option(help="edge, local or cloud: a set of defaults.")] = None,
    method: Annotated[str | None, typer.Option(help="superblock (default up to 4 bits), lsq (at 8), trellis, minmax, hqq or codebook.")] = None,
    group_size: Annotated[int | None, typer.Option(help="16, 32, 64, 128 or 256.")] = None,
    granularity: Annotated[str | None, typer.Option(help="group, row or tensor.")] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Codes around zero, no minimum.")] = False,
    scale_bits: Annotated[int | None, typer.Option(help="superblock: 4 or 6 bits for each scale.")] = None,
    codebook: Annotated[str | None, typer.Option(help="codebook: lloyd_max or nf4.")] = None,
    rotation: Annotated[str | None, typer.Option(help="hadamard: spread outliers over their rows; or none.")] = None,
    unbias: Annotated[float | None, typer.Option(help="0 to 1: give rows back the length that least squares takes.")] = None,
    calibration: Annotated[str | None, typer.Option(metavar="CONNECTION:KEY", help="What the layers of these weights saw: weighs errors by it.")] = None,
    smoothing: Annotated[str | None, typer.Option(metavar="ALPHA|best", help="Move ranges of inputs into the weights, 0 to 1; needs --calibration.")] = None,
    modality: Annotated[str | None, typer.Option(help="text, code, image or audio; found out if not given.")] = None,
    budget: Annotated[str | None, typer.Option(help="3.0 (bits per weight) or 35MB: the most the artifact may have.")] = None,
    search: Annotated[bool, typer.Option("--search", help="With --budget: choose sizes of groups too, by evolution.")] = False,
    activations: Annotated[str | None, typer.Option(metavar="BITS|MODE", help="How inputs are quantized: a width, auto, static, dynamic_per_token or none.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help="'GLOB=keep' or 'GLOB=BITS'; first match wins; repeatable.")] = None,
    no_fallback: Annotated[bool, typer.Option("--no-fallback", help="Record errors without acting on them.")] = False,
    fail_below: Annotated[bool, typer.Option("--fail-below", help="Fail if a tensor misses its gate, instead of widening it.")] = False,
    min_sqnr: Annotated[float | None, typer.Option(help="Gate of each tensor, in dB.")] = None,
    min_cosine: Annotated[float | None, typer.Option(help="Gate of each tensor, 0 to 1.")] = None,
    min_mean_cosine: Annotated[float | None, typer.Option(help="Gate of the whole artifact: nothing is published below.")] = None,
    max_rho: Annotated[float | None, typer.Option(help="Gate of each calibrated tensor: relative error of its output.")] = None,
    max_group_rho: Annotated[float | None, typer.Option(help="The same in the time group where it is largest.")] = None,
    ladder: Annotated[str | None, typer.Option(metavar="BITS,…", help="Widths of tensors that miss their gate, say 2,3,4,8.")] = None,
    recipe: Annotated[Path | None, typer.Option(metavar="FILE", help="Recipe as JSON or TOML.")] = None,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="key=value; repeatable.")] = None,
    priority: Annotated[str, typer.Option(help="low, normal or high.")] = "normal",
    replace: Annotated[bool, typer.Option("--replace", help="Replace an artifact at DST.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until it has ended.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Create a job."""
    options = request.Options(
        bits=bits,
        profile=profile,
        method=method,
        group_size=group_size,
        granularity=granularity,
        symmetric=symmetric,
        scale_bits=scale_bits,
        codebook=codebook,
        rotation=rotation,
        unbias=unbias,
        calibration=request.calibration(calibration),
        smoothing=smoothing,
        modality=modality,
        budget=budget,
        search=search,
        activations=activations,
        rules=rule,
        no_fallback=no_fallback,
        fail_below=fail_below,
        min_sqnr=min_sqnr,
        min_cosine=min_cosine,
        min_mean_cosine=min_mean_cosine,
        max_rho=max_rho,
        max_group_rho=max_group_rho,
        ladder=ladder,
    )
    output: dict[str, Any] = request.place(dst, "DST")
    output["if_exists"] = "replace" if replace else "fail"
    body: dict[str, Any] = {
        "source": request.place(src, "SRC"),
        "output": output,
        "recipe": request.recipe(recipe, options),
        "labels": request.labels(label),
        "priority": priority,
    }
    if name:
        body["name"] = name
    with session.connect(url, key) as client:
        job = client.submit(body)
        if not watch:
            _show(job, as_json)
            if not as_json:
                render.line(f"Next: [bold]arrowquant watch {render.clean(job.get('id'))}[/]")
            return
        if not as_json:
            render.stderr().print(f"job {render.clean(job.get('id'))}")
        _end(follow.watch(client, str(job.get("id"))), as_json)


def status(job: JobId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Show a job as it is now."""
    with session.connect(url, key) as client:
        value = client.get(job)
    _show(value, as_json)
    if value.get("error") and not as_json:
        render.error(JobFailed(value))


def watch(
    job: JobId,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print every event as JSON.")] = False,
) -> None:
    """Follow a job until it has ended. Exit code 1 when it did not succeed."""
    with session.connect(url, key) as client:
        value = follow.watch(client, job, as_json=as_json)
    if as_json:
        if value.get("state") != "SUCCEEDED":
            raise JobFailed(value)
        return
    _end(value, as_json=False)


def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state, e.g. RUNNING.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs with this name.")] = None,
    label: Annotated[str | None, typer.Option(help="Only jobs with this label: key=value.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """List jobs, newest first."""
    with session.connect(url, key) as client:
        found = list(
            client.list(state=state.upper() if state else None, name=name, label=label, limit=limit)
        )
    if as_json:
        render.as_json(found)
    elif found:
        render.stdout().print(render.jobs(found))
    else:
        render.stdout().print("no jobs")


def cancel(job: JobId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Stop a job. Nothing half-written stays behind."""
    with session.connect(url, key) as client:
        _show(client.cancel(job), as_json)


def retry(job: JobId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Continue a failed or cancelled job where it stopped."""
    with session.connect(url, key) as client:
        _show(client.retry(job), as_json)


def events(
    job: JobId,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events past this number.")] = 0,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Print what happened to a job: states, progress, warnings."""
    console = render.stdout()
    with session.connect(url, key) as client:
        for event in client.watch(job, after) if follow_ else client.events(job, after):
            if as_json:
                render.as_json(event)
            else:
                console.print(render.event(event), soft_wrap=True)


def logs(
    job: JobId,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    level: Annotated[str | None, typer.Option(help="debug, info, warning or error: from there up.")] = None,
    tensor: Annotated[str | None, typer.Option(help="Only lines about this tensor.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only lines past this number.")] = 0,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Print what the workers wrote about a job."""
    console = render.stdout()
    with session.connect(url, key) as client:
        for line in client.logs(job, after, level=level, tensor=tensor, follow=follow_):
            if as_json:
                render.as_json(line)
            else:
                console.print(render.log_line(line), soft_wrap=True)


def delete(
    job: JobId,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Delete the artifact in the store too.")] = False,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Delete a job that has ended. Its artifact stays unless you ask for more."""
    if artifacts and not yes:
        typer.confirm(f"Delete the artifact of {job} for good?", abort=True, err=True)
    with session.connect(url, key) as client:
        client.delete_job(job, artifacts="delete" if artifacts else "keep")
    session.answer({"deleted": job}, as_json, f"{render.clean(job)} is deleted")


def fetch(
    job: JobId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the artifact.")],
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Download the artifact of a job, checking every byte. Started again, it goes on."""
    with session.connect(url, key) as client:
        total = sum(int(row.get("bytes") or 0) for row in client.artifacts(job))
        with follow.bar(render.stderr()) as bar:
            task = bar.add_task("fetching", total=total)
            client.download(job, folder, lambda size: bar.advance(task, size))
    if as_json:
        render.as_json({"job": job, "folder": str(folder), "bytes": total})
    else:
        render.line(f"{render.size(total)} in {render.clean(folder)}, every digest right")
        render.line(f"Next: [bold]arrowquant inspect {render.clean(folder)}[/]")


def _show(job: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        render.as_json(job)
    else:
        render.stdout().print(render.job(job))


def _end(job: Mapping[str, Any], as_json: bool) -> None:
    _show(job, as_json)
    if job.get("state") != "SUCCEEDED":
        raise JobFailed(job)
