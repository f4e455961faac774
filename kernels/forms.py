"""Instructions that differ by the kind of weights and by whether codes are symmetric: told apart as they run."""

from collections.abc import Callable
from functools import partial
from typing import Any

from numba.core import typing as numba_typing

from kernels.widen import BF16

# Of llvmlite and Numba: what an intrinsic emits, given context, builder, signature and arguments.
Emit = Callable[[Any, Any, Any, Any], Any]


def _either(test: Callable[[Any, Any], Any], yes: Emit, no: Emit) -> Emit:
    """One of two, by a first argument that neither of them has."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rest = numba_typing.signature(signature.return_type, *signature.args[1:])  # type: ignore[no-untyped-call, attr-defined]
        kind = context.get_value_type(signature.return_type)
        with builder.goto_entry_block():
            place = builder.alloca(kind)
        with builder.if_else(test(builder, args[0])) as branches:
            for branch, chosen in zip(branches, (yes, no), strict=True):
                with branch:
                    builder.store(chosen(context, builder, rest, args[1:]), place)
        return builder.load(place)

    return emit


def by_kind(emit: Callable[[str], Emit]) -> Emit:
    """Of emit("BF16") and emit("F16"), by a first argument, a kind of weights."""
    return _either(
        lambda builder, kind: builder.icmp_signed("==", kind, kind.type(BF16)),
        emit("BF16"),
        emit("F16"),
    )


def by_form(emit: Callable[[str, bool], Emit]) -> Emit:
    """Of all emit(kind, symmetric), by two first arguments."""

    def of(kind: str) -> Emit:
        of_kind = partial(emit, kind)
        return _either(lambda _, symmetric: symmetric, of_kind(True), of_kind(False))

    return by_kind(of)
