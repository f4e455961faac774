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
#: How a refusal begins that the schema should have foreseen; other texts tell what no schema can,
#: for example that two fields exclude each other.
SCHEMA_SAYS: Final = (
    *("Input should ", "Field required", "String should ", "Value should ", "List should "),
    *("Tuple should ", "Set should ", "Frozenset should ", "Dictionary should ", "Data should "),
    *("unknown field", "not JSON"),
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
    if case.operation.definition.raw.get("operationId") == "create_replay":
        _name_an_artifact(case)
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = (
            f"{case.headers['Idempotency-Key'][:200]}-{next(_numbers)}"
        )
    if "wait" in (case.query or {}):
        case.query["wait"] = min(float(case.query["wait"]), 0.1)


def _name_an_artifact(case: schemathesis.Case) -> None:
    """Whether the document's example is there depends on the moment; the first one made always is."""
    if isinstance(case.body, dict) and case.body.get("artifact") and case.body.get("source"):
        case.body["artifact"] = {"connection": "artifacts", "prefix": "made-0/"}
        case.body["source"] = JOB["source"]


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
        told = [detail for detail in details if detail.startswith(SCHEMA_SAYS)]
        assert not told, f"the schema allows it, and the answer is {told}"
