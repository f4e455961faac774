"""Which tensor gets which of its options, so that all fit and the loss is least: a pure function.

minimise  sum_l loss_l(c_l)   subject to   sum_l bytes_l(c_l) <= budget

by Lagrangian relaxation: for a price of lambda per byte each tensor takes the option of least
loss + lambda * bytes. As lambda falls from infinity, tensors step up their lower convex hulls, the
steepest step first; so all breakpoints of lambda are visited in order instead of bisecting for one.
The last step that fits sets lambda; then what room is left is filled greedily, also with options
above the hull. The result is worse than the best there is by less than the loss of one tensor's
step (Everett 1963; the gap is that of the one step that does not fit), and more room never makes it
worse.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store one tensor: its bytes, and what it costs in quality."""

    nbytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """A choice for every tensor. `price` is lambda: loss that one more byte would have saved."""

    choice: tuple[int, ...]
    nbytes: int
    loss: float
    price: float


def least(items: Sequence[Sequence[Option]]) -> tuple[int, ...]:
    """The smallest choice: of each tensor the option with the fewest bytes, of equals the best."""
    return tuple(
        min(range(len(item)), key=lambda n: (item[n].nbytes, item[n].loss, n)) for item in items
    )


def measure(items: Sequence[Sequence[Option]], choice: Sequence[int]) -> tuple[int, float]:
    """Bytes and loss of a choice."""
    chosen = [item[n] for item, n in zip(items, choice, strict=True)]
    return sum(option.nbytes for option in chosen), sum(option.loss for option in chosen)


def allocate(items: Sequence[Sequence[Option]], budget: int) -> Allocation | None:
    """The choice of least loss whose bytes fit; None where not even the smallest do.

    items  of each tensor its options, at least one
    """
    choice = list(least(items))
    nbytes, _ = measure(items, choice)
    room, price = budget - nbytes, 0.0
    if room < 0:
        return None
    steps = [step for n in range(len(items)) if (step := _best_step(items[n], n, choice[n], room))]
    heapq.heapify(steps)
    while steps:
        slope, number, size, option = heapq.heappop(steps)
        if size <= room:
            choice[number], room, price = option, room - size, -slope
        following = _best_step(items[number], number, choice[number], room)
        if following is not None:
            heapq.heappush(steps, following)
    nbytes, loss = measure(items, choice)
    return Allocation(tuple(choice), nbytes, loss, price)


_Step = tuple[float, int, int, int]


def _best_step(item: Sequence[Option], number: int, at: int, room: int) -> _Step | None:
    """The step from an option that saves most loss per byte among those that fit, as (minus the
    slope, tensor, bytes, option): the least of them is the best."""
    now = item[at]
    steps = (
        (-(now.loss - option.loss) / (option.nbytes - now.nbytes), number, size, n)
        for n, option in enumerate(item)
        if option.loss < now.loss and 0 < (size := option.nbytes - now.nbytes) <= room
    )
    return min(steps, key=lambda step: (step[0], -step[2], step[3]), default=None)


def evolve(
    items: Sequence[Sequence[Option]],
    budget: int,
    start: Allocation,
    *,
    evaluations: int,
    population: int,
    seed: int,
) -> Allocation:
    """Search on from an allocation by mutation and crossover; never worse than where it began.

    Each child is brought back under the budget by giving up what saves least, then filled greedily.
    Deterministic: equal arguments give equal results.
    """
    if not items:
        return start
    chance = random.Random(seed)
    fitness = [(start.loss, start.choice)]
    for _ in range(evaluations):
        first = chance.choice(fitness)[1]
        second = chance.choice(fitness)[1]
        child = [a if chance.random() < 0.5 else b for a, b in zip(first, second, strict=True)]
        for _ in range(1 + chance.randrange(max(1, len(items) // 8))):
            number = chance.randrange(len(items))
            child[number] = chance.randrange(len(items[number]))
        if not _repair(items, child, budget):
            continue
        born = (measure(items, child)[1], tuple(child))
        if born not in fitness:
            fitness = sorted([*fitness, born])[:population]
    loss, choice = fitness[0]
    return Allocation(choice, measure(items, choice)[0], loss, start.price)


def _repair(items: Sequence[Sequence[Option]], choice: list[int], budget: int) -> bool:
    """Step tensors down to options that save bytes for the least loss until all fit."""
    over = measure(items, choice)[0] - budget
    while over > 0:
        downs = [
            ((option.loss - item[at].loss) / (item[at].nbytes - option.nbytes), number, n)
            for number, (item, at) in enumerate(zip(items, choice, strict=True))
            for n, option in enumerate(item)
            if option.nbytes < item[at].nbytes
        ]
        if not downs:
            return False
        _, number, n = min(downs)
        over -= items[number][choice[number]].nbytes - items[number][n].nbytes
        choice[number] = n
    return True
