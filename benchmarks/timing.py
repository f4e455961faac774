"""Repeated runs, interleaved: A, B, C, A, B, C, ...

Whatever else the machine does hits neighbours in a round alike, so ratios within a round hold on a
busy machine where seconds do not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

Run = Callable[[], float]
REST_SECONDS = 0.3
WAKE_SECONDS = 0.15
LONG_SECONDS = 1.0


@dataclass(slots=True)
class Rounds:
    """The seconds of every run, round by round; who failed, and with what."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def timed(work: Callable[[], object]) -> Run:
    """A run that measures itself."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


def rested(run: Run) -> Run:
    """A run that begins when threads of the one before are asleep (some spin on after their work, OpenMP's for
    a fifth of a second) and processors are awake, which takes some hundredths of a second of work here.
    So short ones do not count until then; for one of a second that is little."""

    def late() -> float:
        time.sleep(REST_SECONDS)
        began = time.perf_counter()
        seconds = run()
        if time.perf_counter() - began >= LONG_SECONDS:
            return seconds
        while time.perf_counter() - began < WAKE_SECONDS:
            run()
        return run()

    return late


def interleave(
    runs: Mapping[str, Run], rounds: int, *, warm_up: bool = True, at_least_s: float = 0.0
) -> Rounds:
    """Run everyone once per round. Whoever fails is noted and takes no further part.

    at_least_s  more rounds than `rounds` until so much time has gone by: a median of five runs of
                a few milliseconds is no measurement
    """
    done = Rounds({name: [] for name in runs})
    began = time.perf_counter()
    for number in itertools.count():
        if number >= rounds + warm_up and time.perf_counter() - began >= at_least_s:
            break
        if len(done.errors) == len(runs):
            break
        for name, run in runs.items():
            if name in done.errors:
                continue
            try:
                seconds = run()
            except Exception as error:  # noqa: BLE001 - any failure is a result
                done.errors[name] = clean(f"{type(error).__name__}: {error}")
                continue
            if number >= warm_up:
                done.seconds[name].append(seconds)
    return done


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Pairwise, round by round."""
    return [a / b for a, b in zip(above, below, strict=False)]


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the pairwise ratios."""
    return median(ratios(above, below))


def clean(text: str) -> str:
    """A message fit to be kept: no addresses, no folders of this machine, not endless."""
    words = []
    for line in text.splitlines():
        for word in line.split():
            bare = word.strip("'\"()[],:;")
            if "://" in bare:
                words.append("<address>")
            elif bare.count("/") > 1 and bare.startswith(("/", "file")):
                words.append(word.replace(bare, bare.rsplit("/", 1)[-1]))
            else:
                words.append(word)
    flat = " ".join(words)
    return flat if len(flat) <= 400 else flat[:200] + " ... " + flat[-195:]
