"""`python -m workers --drain`: a pilot, for clusters that own their queue (see docs/cluster.md).

Exit codes: 0 nothing is left to claim, or enough was done; 75 it had to stop before (start another);
1 the ledger could not be reached; 2 this environment is none for a worker, or an option is wrong.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import psutil
import typer

from service.domain.errors import ArrowQuantError
from service.settings import InvalidSettings, Settings

if TYPE_CHECKING:
    from workers.pilot import Limits

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_STOPPED: Final = 75  # EX_TEMPFAIL of sysexits: the same may be tried again

_NEEDED: Final = ("numba", "pyarrow", "kernels")
# File systems on which several machines do not see each other's locks and shared memory.
_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs",
     "nfs4", "smb3", "smbfs"}
)  # fmt: skip

app = typer.Typer(
    name="python -m workers",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def pilot(
    drain: Annotated[
        bool, typer.Option("--drain", help="Claim from the ledger itself, without a broker.")
    ] = False,
    exit_when_idle: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="End when there was no work for so long."),
    ] = 60.0,
    max_time: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="Give the unit in hand back before so much time is over (30 s before, or a tenth "
            "of it where that is less), and end.",
        ),
    ] = None,
    max_units: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after so many units.")
    ] = None,
) -> None:
    """Work on whatever the ledger has, then end: a pilot in a batch job of a cluster.

    Settings come from ARROWQUANT_* variables, the same as the service has. Exit codes: 0 nothing is
    left or enough was done, 75 it had to stop before that, 1 the ledger could not be reached, 2 this
    environment or an option is wrong.
    """
    if not drain:
        typer.echo(
            "say --drain: work without a broker until nothing is left. The worker that a broker "
            "wakes is `celery -A workers.celery_app worker`.",
            err=True,
        )
        raise typer.Exit(EXIT_USAGE)
    settings = Settings.load()
    _check_environment(settings)
    from service import logs
    from workers import kernel_cache

    logs.configure(settings.log_level, settings.log_format)
    kernel_cache.choose(settings.data_dir)  # before anything imports numba
    from workers.pilot import Limits

    raise typer.Exit(_run(settings, Limits(exit_when_idle, max_time, max_units)))


def _run(settings: Settings, limits: Limits) -> int:
    import structlog

    from service.wiring import wire
    from workers import telling
    from workers.local import NoBell
    from workers.pilot import Ended, Pilot
    from workers.presence import Presence
    from workers.stop import Stop
    from workers.workshop import Workshop

    log = structlog.get_logger("workers.pilot")
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.ask)
    pilot = Pilot(limits, stop)
    # Whoever else works looks by itself: a pilot needs no broker, not even to ring.
    deps = dataclasses.replace(wire(settings), bell=NoBell())
    end_telling = telling.begin(deps)
    try:
        workshop = Workshop(deps, pilot.interrupted)
        presence = Presence(
            deps.fleet, workshop.worker, settings.lease_s, lambda: stop.asked, stop.ask
        )
        presence.start()
        log.info("pilot_started", released=workshop.release_dead())
        end = pilot.run(workshop)
        log.info("pilot_ended", why=end.value, units=pilot.units)
        presence.stop()
    finally:
        end_telling()
        deps.close()
    if end is Ended.UNREACHABLE:
        return EXIT_FAILED
    return EXIT_STOPPED if end in (Ended.TIME, Ended.SIGNAL) else 0


def _check_environment(settings: Settings) -> None:
    """Raises InvalidSettings where a worker could only fail, or wait for nothing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidSettings(
            f"this environment is not a worker's: {', '.join(missing)} cannot be imported. "
            "Use the worker's image, or install arrowquant-server with its dependencies."
        )
    url = settings.resolved_database_url
    if not url.startswith("sqlite:///"):
        return
    file = Path(url.removeprefix("sqlite:///"))
    if not file.exists():
        raise InvalidSettings(
            f"there is no ledger at {file}: set ARROWQUANT_DATABASE_URL to the service's database"
        )
    kind = _file_system(file.resolve())
    if kind in _NETWORK:
        raise InvalidSettings(
            f"the ledger is a SQLite file on {kind}, which several machines cannot share: "
            "set ARROWQUANT_DATABASE_URL to the service's PostgreSQL"
        )


def _file_system(path: Path) -> str:
    """The type of the file system that holds a file, or nothing where that cannot be told."""
    mounts = [mount for mount in psutil.disk_partitions(all=True) if _below(path, mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else ""


def _below(path: Path, folder: str) -> bool:
    return path.is_relative_to(folder)


def main() -> None:
    """Run, and end wrong settings and named failures in one line and a status."""
    try:
        app()
    except InvalidSettings as error:
        typer.echo(f"configuration: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except ArrowQuantError as error:
        typer.echo(str(error), err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
