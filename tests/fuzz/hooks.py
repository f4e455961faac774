"""What the fuzzer must know of this service, and the log of what it did."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any, Final

import schemathesis

_numbers = itertools.count()
#: What there is to be named in paths, in turn: `jobs/job_id` -> values.
_THINGS: Final = {
    name: itertools.cycle(values) for name, values in json.loads(os.environ["FUZZ_THINGS"]).items()
}

JOB: Final = {
    "source": {"connection": "models", "prefix": "dream-7b/"},
    "output": {"connection": "artifacts", "prefix": "batch/"},
}
#: What is wrong with a request though every field of it is right, as `detail` says it.
ACROSS_FIELDS: Final = (
    "a rule with action 'keep' takes no",
    "group_size only goes with granularity",
    "unbias corrects least-squares rows",
    "granularity 'tensor' is one scale",
    "control characters, backslashes and broken Unicode",
    "a prefix is relative",
    "has an empty, '.' or '..' segment",
    "an artifact is a prefix with several objects",
    "is named twice",
    "expire_time lies in the past",
    "the address must be https://",
    "the URL must be ",
    "give either access_key_id and secret_access_key, or env, or ambient",
    "give both access_key_id and secret_access_key",
    "from must not be after to",
    "; give each its id",
    "a session_token goes with",
    "give the region of the bucket",
    "completion_window: a number and",
    "there is no such webhook endpoint",
)


@schemathesis.serializer("application/jsonl")
def as_it_is(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    """JSON Lines are text."""
    return str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leave the fuzzer's own key alone."""
    return os.environ["FUZZ_KEY_ID"] not in (case.path_parameters or {}).values()


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]
) -> None:
    """Give every valid request an Idempotency-Key of its own, if it has one: with another's it
    would get that one's answer. Name things that exist. And wait for nothing."""
    if not (case.meta and case.meta.generation.mode.is_positive):
        return
    if case.meta.phase.name.value != "stateful":
        for place, parameter in re.findall(r"(\w+)/{(\w+)}", case.path):
            if f"{place}/{parameter}" in _THINGS:
                case.path_parameters[parameter] = next(_THINGS[f"{place}/{parameter}"])
    if case.media_type == "application/jsonl":
        case.body = json.dumps({"custom_id": "a", "body": JOB}) + "\n"  # no schema says it
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = (
            f"{case.headers['Idempotency-Key'][:200]}-{next(_numbers)}"
        )
    if "wait" in (case.query or {}):
        case.query["wait"] = min(float(case.query["wait"]), 0.1)


@schemathesis.hook
def after_call(
    context: schemathesis.HookContext, case: schemathesis.Case, response: schemathesis.Response
) -> None:
    """Write down what was asked and how it was answered, for the test to look at."""
    line = [
        case.operation.definition.raw.get("operationId"),
        case.meta.phase.name.value if case.meta else "",
        case.meta.generation.mode.value if case.meta else "",
        response.status_code,
    ]
    with Path(os.environ["FUZZ_LOG"]).open("a") as log:
        log.write(json.dumps(line) + "\n")


@schemathesis.check
def refusals_of_valid_requests_have_a_reason(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A request that fits the schema is refused only for what no schema can say."""
    if not (case.meta and case.meta.generation.mode.is_positive and response.status_code == 422):
        return
    problem = response.json()
    if problem["code"] == "invalid_spec":
        details = [error["detail"] for error in problem["errors"]] or [problem["detail"]]
        foreseen = (any(text in detail for text in ACROSS_FIELDS) for detail in details)
        assert all(foreseen), f"refused for {details}"
