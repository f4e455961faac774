"""What a job would do, from the headers of its source alone."""

from __future__ import annotations

from typing import Any, Final

from service.domain.calibration import Calibration
from service.domain.catalog import Catalog
from service.domain.engine import versions
from service.domain.errors import ArrowQuantError, FieldError
from service.domain.forecast import forecast
from service.domain.outputs import JobPlan, plan_outputs, resolve_outputs
from service.domain.places import Place
from service.domain.ports import ObjectStore, ObjectStores
from service.domain.spec import PlanRequest
from service.usecases.bounded import Bounded, TookTooLong
from service.usecases.calibration import with_calibration
from service.usecases.inspect_source import inspect

# A minute is what a proxy in front would allow.
PLAN_S: Final = 50.0
_reading = Bounded(PLAN_S, 16, "storage_unavailable", "reading the source's headers")


def plan_source(
    stores: ObjectStores,
    tenant: str,
    request: PlanRequest,
    reading: Bounded = _reading,
    *,
    ties: bool = True,
) -> JobPlan:
    """Read the headers of the source and decide every tensor.

    ties    find tensors with equal bytes too, which reads them: for exact sizes, not for checks
    Raises what makes a job impossible; TookTooLong when the store did not answer in time.
    """
    store = open_place(stores, tenant, request.source, "/source")
    try:
        catalog = reading.call(lambda: inspect(store, request.source.prefix, ties=ties))
    except ArrowQuantError as error:
        raise pointed(error, "/source/prefix") from None
    catalog = calibrated(stores, tenant, request.recipe.calibration, catalog, reading)
    return plan_outputs(catalog, resolve_outputs(request.recipe))


def calibrated(
    stores: ObjectStores,
    tenant: str,
    calibration: Calibration | None,
    catalog: Catalog,
    reading: Bounded = _reading,
) -> Catalog:
    """The catalog with what the recipe's calibration file, if it names one, has of its weights.

    Raises connection_not_found, source_not_found, invalid_calibration, calibration_mismatch, each
    an error of the recipe's field.
    """
    if calibration is None:
        return catalog
    store = open_calibration(stores, tenant, calibration)
    try:
        return reading.call(lambda: with_calibration(catalog, store, store.stat(calibration.key)))
    except ArrowQuantError as error:
        raise pointed(error, "/recipe/calibration/key") from None


def open_calibration(stores: ObjectStores, tenant: str, calibration: Calibration) -> ObjectStore:
    """The store of a calibration file. An unknown connection is an error of that field."""
    return open_place(stores, tenant, calibration, "/recipe/calibration")


def announce(stores: ObjectStores, tenant: str, request: PlanRequest) -> dict[str, Any]:
    """Exact bytes, and for every tensor what and why: the body of `POST /v1/plans`."""
    plan = plan_source(stores, tenant, request)
    requested = {
        name: recipe.model_dump(mode="json", exclude_unset=True)
        for name, recipe in request.recipe.each().items()
    }
    return forecast(plan, requested, versions())


def open_place(
    stores: ObjectStores, tenant: str, place: Place | Calibration, pointer: str
) -> ObjectStore:
    """The store of a place. An unknown connection is an error of that field."""
    try:
        return stores.open(tenant, place.connection)
    except ArrowQuantError as error:
        raise pointed(error, f"{pointer}/connection") from None


def pointed(error: ArrowQuantError, pointer: str) -> ArrowQuantError:
    """The same error, naming the field of the request it comes from."""
    if error.errors or "pointer" in error.where or isinstance(error, TookTooLong):
        return error
    return ArrowQuantError(
        error.code, error.detail, error.hint, error.where, (FieldError(pointer, error.detail),)
    )
