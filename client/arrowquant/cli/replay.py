"""`arrowquant replay`: an artifact made again, and what of it comes out otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType

from arrowquant.cli import follow, render, request, session
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url
from arrowquant.errors import JobFailed
from arrowquant.http.types import ReplayRequest, ReplayResult

_EXIT_DIFFERS: Final = 1


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to the application."""
    app.command("replay", rich_help_panel=panel)(replay)


def replay(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="Id of the job that made it, or connection:prefix.")],
    source: Annotated[str | None, typer.Argument(metavar="[SRC]", help="What it was made from: connection:prefix. Not for a job's id.")] = None,
    output: Annotated[str | None, typer.Option(help="Which of the job's outputs, if it has several.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show how far it is.")] = False,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make an artifact again and compare. Nothing is written.

    Exit code 0 when it is identical, 1 when it differs or the replay failed.
    """
    body = _body(artifact, source, output)
    with session.connect(url, key) as client:
        started = client.create_replay(body)
        # The id comes first: whoever stops waiting finds the replay by it.
        if not as_json:
            render.stderr().print(f"replay {render.clean(started['id'])}")
        if watch:
            follow.watch(client, started["id"])
        else:
            client.wait(started["id"])
        found = client.get_replay(started["id"])
    result = found["result"]
    if result is None:
        raise JobFailed(found)
    session.answer(found, as_json, _shown(result))
    if result["verdict"] != "identical":
        raise typer.Exit(_EXIT_DIFFERS)


def _body(artifact: str, source: str | None, output: str | None) -> ReplayRequest:
    if ":" not in artifact:
        if source is not None:
            raise request.usage(
                "a job knows its source: give ARTIFACT as connection:prefix, or no SRC"
            )
        return {"job_id": artifact, "output": output} if output else {"job_id": artifact}
    if source is None or output is not None:
        raise request.usage(
            f"{artifact!r} wants the place of its source too, and no --output",
            "For instance: arrowquant replay artifacts:dream-7b-int4/ models:dream-7b/",
        )
    place, origin = request.place(artifact, "ARTIFACT"), request.place(source, "SRC")
    return {
        "artifact": {"connection": place["connection"], "prefix": place["prefix"]},
        "source": {"connection": origin["connection"], "prefix": origin["prefix"]},
    }


def _shown(result: ReplayResult) -> RenderableType:
    engine = [
        f"{render.clean(e['name'])}: {_version(e['then'])} then, {_version(e['now'])} now"
        for e in result["engine"]
    ]
    if result["verdict"] == "identical":
        return Group("identical", *engine)
    names = ("tensor or part", "tile", "what differs")
    table = session.table(
        _differences(result), *names, right=["tile"], fold=[names[0], names[2]], none=""
    )
    more = result["tiles_differing"] - sum(len(t["tiles"]) for t in result["tensors"])
    rest = [f"and {more} more tiles"] if more > 0 else []
    return Group("differs", table, *rest, *engine)


def _differences(result: ReplayResult) -> Iterator[tuple[str, object, str]]:
    for part in result["parts"]:
        yield part["part"], "", part["problem"].replace("_", " ")
    for tensor in result["tensors"]:
        for tile in tensor["tiles"]:
            yield tensor["tensor"], tile["tile_index"], _what(tile)
    for metric in result["metrics"]:
        yield metric["tensor"], "", f"report: {', '.join(metric['differs'])}"


def _what(tile: Mapping[str, Any]) -> str:
    count = tile["code_bytes"]
    text = ", ".join(tile["differs"])
    return f"{text} ({count} {'byte' if count == 1 else 'bytes'} of codes)" if count else text


def _version(version: str | None) -> str:
    return "none" if version is None else render.clean(version)
