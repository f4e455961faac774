"""The commands of `arrowquant` that need the server distribution: quantize, plan, serve, fold.

`arrowquant.cli` finds `register` through an entry point. Heavy imports wait inside the commands,
so that `arrowquant --help` stays quick.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from arrowquant.cli.request import Options
from service.domain.errors import ArrowQuantError
from service.domain.limits import Limits
from service.domain.smoothing import Aggregate
from service.domain.spec import Recipe
from service.settings import InvalidSettings, Settings
from workers import kernel_cache, recipes, render
from workers.options import (
    ActivationsText,
    AsJson,
    Bits,
    BudgetText,
    CalibrationFile,
    Codebook,
    Dst,
    FailBelow,
    Granularity,
    Group,
    Ladder,
    MaxGroupRho,
    MaxRho,
    Memory,
    Method,
    MinCosine,
    MinMeanCosine,
    MinSqnr,
    Modality,
    NoFallback,
    Profile,
    RecipeFile,
    Rotation,
    Rules,
    ScaleBits,
    Search,
    SmoothingText,
    Src,
    Symmetric,
    Threads,
    Unbias,
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the commands to the client's application."""
    app.command()(quantize)
    app.command()(plan)
    app.command()(serve)
    app.command()(fold)


def quantize(
    src: Src,
    dst: Dst,
    bits: Bits = None,
    profile: Profile = None,
    method: Method = None,
    group_size: Group = None,
    granularity: Granularity = None,
    symmetric: Symmetric = False,
    scale_bits: ScaleBits = None,
    codebook: Codebook = None,
    rotation: Rotation = None,
    unbias: Unbias = None,
    calibration: CalibrationFile = None,
    smoothing: SmoothingText = None,
    modality: Modality = None,
    budget: BudgetText = None,
    search: Search = False,
    activations: ActivationsText = None,
    rule: Rules = None,
    recipe: RecipeFile = None,
    no_fallback: NoFallback = False,
    fail_below: FailBelow = False,
    min_sqnr: MinSqnr = None,
    min_cosine: MinCosine = None,
    min_mean_cosine: MinMeanCosine = None,
    max_rho: MaxRho = None,
    max_group_rho: MaxGroupRho = None,
    ladder: Ladder = None,
    threads: Threads = None,
    max_memory: Memory = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite an artifact")] = False,
    as_json: AsJson = False,
) -> None:
    """Quantize a model in this process, without a server.

    Interrupted or killed, the same command goes on where it stopped.
    """
    options = Options(
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
    with _reported():
        wanted = recipes.build(recipe, options, calibration)
        limits = recipes.limits(threads, max_memory)
        summary = _run(src, dst, wanted, limits, replace, calibration, quiet=as_json)
        if as_json:
            typer.echo(json.dumps(summary, indent=2))
        else:
            render.outcome(Console(), summary, dst)


def plan(
    src: Src,
    bits: Bits = None,
    profile: Profile = None,
    method: Method = None,
    group_size: Group = None,
    granularity: Granularity = None,
    symmetric: Symmetric = False,
    scale_bits: ScaleBits = None,
    codebook: Codebook = None,
    rotation: Rotation = None,
    unbias: Unbias = None,
    calibration: CalibrationFile = None,
    smoothing: SmoothingText = None,
    modality: Modality = None,
    budget: BudgetText = None,
    search: Search = False,
    activations: ActivationsText = None,
    rule: Rules = None,
    recipe: RecipeFile = None,
    no_fallback: NoFallback = False,
    fail_below: FailBelow = False,
    min_sqnr: MinSqnr = None,
    min_cosine: MinCosine = None,
    min_mean_cosine: MinMeanCosine = None,
    max_rho: MaxRho = None,
    max_group_rho: MaxGroupRho = None,
    ladder: Ladder = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a job would do, from the headers alone: exact bytes, and for each tensor why."""
    options = Options(
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
    with _reported():
        from service.usecases.plan import announce
        from workers.local import TENANT, TwoPlaces, plan_request

        store, request = plan_request(src, recipes.build(recipe, options, calibration))
        stores = TwoPlaces(store, store, calibration)
        announced = announce(stores, TENANT, request)
        if as_json:
            typer.echo(json.dumps(announced, indent=2))
        else:
            render.plan(Console(), announced, every_tensor=tensors)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where everything is kept")
    ] = None,
) -> None:
    """Run the whole service on this machine: API, worker, broker and ledger."""
    given = {"host": host, "port": port, "data_dir": data}
    with _reported():
        from service import logs
        from workers import standalone

        settings = Settings.load(**{key: v for key, v in given.items() if v is not None})
        logs.configure(settings.log_level, settings.log_format)
        standalone.serve(settings, lambda s, broker: render.served(Console(), s, broker))


def fold(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="Folder or .safetensors file")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder for the folded model")],
    calibration: Annotated[
        Path, typer.Option(metavar="FILE", help="What the layers of these weights saw")
    ],
    alpha: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Strength; the best of seven for each group if not given"),
    ] = None,
    aggregate: Annotated[
        Aggregate, typer.Option(help="Ranges over time: max, mean or salience")
    ] = Aggregate.MEAN,
    any_factor: Annotated[
        bool, typer.Option("--any-factor", help="Not only powers of two: weights are rounded")
    ] = False,
    bits: Annotated[int, typer.Option(help="Width it will have: 2, 3, 4, 8; 0 for as it is")] = 4,
    group_size: Annotated[int, typer.Option("--group-size", help="0 for rows, 16 to 256")] = 64,
    activation_bits: Annotated[
        int,
        typer.Option("--activation-bits", min=0, max=16, help="Of its inputs; 0 for as they are"),
    ] = 8,
    calibration_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the calibration of the folded model here"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite what is there")] = False,
    as_json: AsJson = False,
) -> None:
    """Even out the channels of a model's layers, changing its weights and nothing that it does.

    Ranges move from the inputs of layers into their weights; norms, modulations and the layers before take them up.
    """
    with _reported():
        kernel_cache.choose(Settings.load().data_dir)
        from workers.spatial import fold as folding
        from workers.spatial.estimate import Target
        from workers.spatial.recalibrate import recalibrate

        if bits not in (0, 2, 3, 4, 8):
            raise recipes.UsageError(f"--bits {bits}: 2, 3, 4, 8, or 0 for weights as they are")
        if group_size not in (0, 16, 32, 64, 128, 256):
            raise recipes.UsageError(
                f"--group-size {group_size}: 16, 32, 64, 128, 256, or 0 for rows"
            )
        target = Target(bits, group_size, activation_bits)
        options = folding.Options(alpha, aggregate, not any_factor, target)
        folding.check_output(src, dst, replace=replace)
        with Console(stderr=True, quiet=as_json).status("reading") as status:
            made = folding.plan(src, calibration, options, lambda name: status.update(escape(name)))
            status.update("writing")
            folding.write(src, dst, made, replace=replace)
            if calibration_out is not None:
                recalibrate(calibration, dst, folding.columns(src, made), calibration_out)
        if as_json:
            typer.echo(json.dumps(made.summary(), indent=2))
        else:
            render.folded(Console(), made.summary(), str(dst))


def _run(
    src: str,
    dst: str,
    recipe: Recipe,
    limits: Limits,
    replace: bool,
    calibration: str | None,
    *,
    quiet: bool,
) -> dict[str, Any]:
    settings = Settings.load()
    compiled = kernel_cache.warm(kernel_cache.choose(settings.data_dir))
    console = Console(stderr=True, quiet=quiet)
    if not compiled:
        console.print("compiling the kernels, once on this machine: about ten seconds", style="dim")
    from service import logs
    from service.domain.job import JobState
    from workers import local

    # The bar and the message at the end say it all, unless somebody asked for the log.
    asked = "log_level" in settings.model_fields_set
    logs.configure(settings.log_level if asked else "error", settings.log_format)

    job = local.open_job(settings, src, dst, recipe, limits, calibration, replace=replace)
    with contextlib.closing(job):
        gc.freeze()  # what is here now stays: looking through it again and again costs time
        last = render.follow(console, job.run(), job.news)
        if last.state is not JobState.SUCCEEDED:
            raise local.failure(last)
        job.forget()
    return dict(last.summary or {})


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what can go wrong into a message and an exit code, never a traceback."""
    console = Console(stderr=True)
    try:
        yield
    except (recipes.UsageError, InvalidSettings) as error:
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_USAGE) from None
    except ArrowQuantError as error:
        render.error(console, error)
        raise typer.Exit(EXIT_USAGE if error.code in _USAGE else EXIT_FAILED) from None
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on where this one stopped")
        raise typer.Exit(EXIT_INTERRUPTED) from None


# What was typed has to change; everything else is the work's failure.
_USAGE = frozenset(
    {
        *("source_not_found", "output_exists", "connection_not_found"),
        *("invalid_calibration", "calibration_mismatch"),
        *("invalid_spec", "rule_matched_nothing", "location_not_allowed", "budget_infeasible"),
    }
)
