"""Taking away what a job wrote, and nothing that anybody else did.

A key alone proves nothing: another job may have put the same bytes there since. So a part goes only
while no other job writes to the place, no other job of the ledger has it, no artifact that stands
there lists it, and the store still calls it what it called ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.domain.errors import ArrowQuantError
from service.domain.job import PartRow
from service.domain.ports import Ledger
from service.domain.report import MANIFEST_NAME
from workers import place
from workers.job import JobContext


class Postponed(Exception):
    """Another job writes to the place now: later."""


def remove_own(
    context: JobContext,
    ledger: Ledger,
    output: int,
    parts: Sequence[PartRow],
    units: int,
    may_go_on: Callable[[], None],
    *,
    restore: bool,
) -> None:
    """Manifest, report and parts of an output, also parts that were to be made again and which the
    ledger has forgotten. With `restore` an artifact that the job replaced stands again."""
    found = place.standing(context, output)
    keys = [part.key for part in parts]
    elsewhere = ledger.owned_elsewhere(context.claim.job_id, keys)
    listed = [(part.key.rpartition("/")[2], part.sha256) for part in parts]
    ours = found is not None and bool(parts) and found.parts == listed and not elsewhere
    foreign = set() if found is None or ours else found.names
    protected = elsewhere | {context.key(name, output) for name in foreign}
    if ours:
        may_go_on()
        take_back(context, output, restore=restore)
    for part in parts:
        may_go_on()
        if part.key not in protected:
            delete_if(context, part.key, part.etag)
    if foreign and not context.replaces:
        return  # without a record of them, only our own place tells that they are ours
    forgotten = {context.part_key(seq, output) for seq in range(units)} - set(keys)
    forgotten -= ledger.owned_elsewhere(context.claim.job_id, sorted(forgotten))
    _remove_named(context, output, forgotten - protected, may_go_on)


def take_back(context: JobContext, output: int, *, restore: bool = True) -> None:
    """Our manifest goes: to the one it replaced, if that was kept, or to nothing."""
    before = context.key(context.replaced_name(output), output)
    data = place.read_whole(context, before)
    manifest = context.key(MANIFEST_NAME, output)
    if data is None or not restore:
        context.output.delete(manifest)
    else:
        context.output.put(manifest, data)
    context.output.delete(before)
    for name in (context.report_name(output), context.activations_name(output)):
        context.output.delete(context.key(name, output))


def delete_if(context: JobContext, key: str, etag: str) -> None:
    """Delete an object that is still the one with this ETag."""
    try:
        found = context.output.stat(key).etag
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        return
    if found == etag:
        context.output.delete(key)


def _remove_named(
    context: JobContext, output: int, keys: set[str], may_go_on: Callable[[], None]
) -> None:
    if not keys:
        return
    for info in list(context.output.list(context.key("part-", output))):
        if info.key in keys:
            may_go_on()
            context.output.delete(info.key)
    if context.first_part(output):
        # Names that only this job has: whatever it was about to publish.
        for name in (
            context.report_name(output),
            context.activations_name(output),
            context.replaced_name(output),
        ):
            may_go_on()
            context.output.delete(context.key(name, output))
