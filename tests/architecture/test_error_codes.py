"""Every code that we name is produced somewhere by a test, and every failure a service of this kind
must be able to name has a code of ours."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from service.domain.errors import CODES

ROOT = Path(__file__).parents[2]
# A code, and the test that brings it about and asserts it.
PRODUCED: dict[str, str] = {
    "invalid_spec": "tests/web/test_requests.py::test_wrong_fields_are_pointed_at",
    "invalid_page_token": "tests/web/test_batch_results.py::test_lists_page_and_filter",
    "unauthorized": "tests/web/test_metrics.py::test_it_needs_an_operators_key",
    "forbidden": "tests/web/test_metrics.py::test_it_needs_an_operators_key",
    "not_found": "tests/web/test_api_keys.py::test_rotating_and_revoking",
    "job_terminal": "tests/contracts/test_ledger.py::test_an_ended_job_cannot_be_cancelled",
    "job_active": "tests/contracts/test_ledger.py::test_cancel_ends_leases_and_has_the_uploads_cleaned_up",
    "not_ready": "tests/web/test_artifacts.py::test_there_is_nothing_before_success",
    "invalid_batch": "tests/web/test_batches.py::test_all_bad_lines_are_told_and_nothing_is_queued",
    "batch_terminal": "tests/web/test_batch_results.py::test_an_ended_batch_is_not_cancelled",
    "batch_active": "tests/web/test_batch_results.py::test_an_active_batch_is_not_forgotten",
    "batch_expired": "tests/contracts/test_batch_wishes.py::test_what_nobody_took_in_time_expires",
    "job_cancelled": "tests/web/test_batch_results.py::test_results_and_errors",
    "upload_timeout": "tests/web/test_batch_uploads.py::test_an_upload_that_stalls_or_breaks_off",
    "too_many_uploads": "tests/web/test_batch_uploads.py::test_only_so_many_uploads_at_once",
    "name_in_use": "tests/contracts/test_connections.py::test_tenants_have_names_of_their_own",
    "idempotency_key_reused": "tests/web/test_batch_uploads.py::test_a_key_makes_one_batch_of_two_uploads",
    "idempotency_in_flight": "tests/web/test_batch_uploads.py::test_a_key_whose_upload_is_under_way",
    "webhook_disabled": "tests/web/test_webhooks.py::test_gone_is_the_end",
    "webhook_limit": "tests/contracts/test_webhooks.py::test_a_tenant_has_a_number_of_endpoints",
    "quota_exceeded": "tests/web/test_quotas.py::test_what_is_too_much_is_refused_with_a_time",
    "rate_limited": "tests/web/test_quotas.py::test_every_answer_says_how_the_rate_stands",
    "payload_too_large": "tests/web/test_batch_uploads.py::test_a_body_without_an_end_is_cut_at_the_cap",
    "unsupported_media_type": "tests/web/test_batch_uploads.py::test_other_bodies",
    "request_timeout": "tests/web/test_crowd.py::test_a_body_that_never_ends",
    "too_many_streams": "tests/web/test_crowd.py::test_streams_are_counted_by_tenant",
    "connection_not_found": "tests/web/test_batches.py::test_all_bad_lines_are_told_and_nothing_is_queued",
    "location_not_allowed": "tests/contracts/test_folder_store.py::test_links_out_of_a_folder_are_refused",
    "connection_in_use": "tests/contracts/test_connections.py::test_what_jobs_use_stays",
    "secrets_not_configured": "tests/web/test_webhooks.py::test_it_is_said",
    "secret_unreadable": "tests/unit/service/test_vault.py::test_a_row_cannot_be_moved",
    "endpoint_not_allowed": "tests/web/test_webhooks.py::test_an_address_that_may_not_be_called",
    "source_not_found": "tests/web/test_jobs.py::test_what_cannot_work_is_refused_before_it_is_queued",
    "source_access_denied": "tests/contracts/test_s3_store.py::test_wrong_credentials",
    "source_changed": "tests/contracts/test_object_store.py::test_an_object_that_changes_is_noticed",
    "unsupported_format": "tests/web/test_jobs.py::test_what_cannot_work_is_refused_before_it_is_queued",
    "invalid_safetensors_header": "tests/web/test_jobs.py::test_what_cannot_work_is_refused_before_it_is_queued",
    "invalid_index": "tests/unit/service/test_catalog.py::test_a_name_stands_once",
    "tensor_missing_in_index": "tests/unit/service/test_catalog.py::test_an_index_that_does_not_fit",
    "unsupported_dtype": "tests/unit/service/test_safetensors.py::test_unknown_dtypes",
    "rule_matched_nothing": "tests/web/test_batches.py::test_all_bad_lines_are_told_and_nothing_is_queued",
    "invalid_calibration": "tests/workers/test_calibrated.py::test_a_broken_file_is_refused_when_it_is_read",
    "calibration_mismatch": "tests/workers/test_calibrated.py::test_other_bytes_are_refused",
    "non_finite_weights": "tests/workers/test_local_job.py::test_non_finite_weights_fail_the_job",
    "budget_infeasible": "tests/workers/test_budget.py::test_too_small_a_budget_is_refused_with_the_least_there_is",
    "quality_below_threshold": "tests/workers/test_fallback.py::test_a_recipe_may_rather_fail_than_store_wider",
    "output_exists": "tests/contracts/test_object_store.py::test_put_if_absent_writes_once",
    "output_mismatch": "tests/workers/test_succession.py::test_another_recipe_is_refused_by_name",
    "output_in_use": "tests/contracts/test_ledger_outputs.py::test_every_output_has_one_writer",
    "invalid_artifact": "tests/workers/test_replay.py::test_a_manifest_of_somebody_else_s_making_is_checked",
    "digest_mismatch": "tests/web/test_artifacts.py::test_a_part_that_was_tampered_with_is_not_served",
    "storage_unavailable": "tests/contracts/test_s3_store.py::test_what_breaks_off_goes_on",
    "storage_throttled": "tests/contracts/test_s3_trouble.py::test_a_store_that_asks_for_fewer_requests",
    "storage_timeout": "tests/contracts/test_s3_trouble.py::test_a_store_that_does_not_answer_in_time",
    "multipart_failed": "tests/contracts/test_s3_trouble.py::test_a_store_that_loses_an_upload",
    "storage_access_denied": "tests/contracts/test_s3_store.py::test_wrong_credentials",
    "no_space": "tests/contracts/test_folder_store.py::test_a_full_disk",
    "max_pending_exceeded": "tests/contracts/test_ledger_deletion.py::test_a_job_that_nobody_takes_expires",
    "max_runtime_exceeded": "tests/contracts/test_ledger.py::test_a_job_past_its_time_fails",
    "memory_limit_too_small": "tests/workers/test_local_job.py::test_a_limit_below_the_floor_is_refused",
    "out_of_memory": "tests/workers/test_memory_error.py::test_memory_that_cannot_be_had_fails_the_job",
    "overloaded": "tests/web/test_crowd.py::test_more_requests_than_it_may_take",
    "identity_unavailable": "tests/web/test_tokens.py::test_a_provider_that_is_away_is_a_503_and_keys_work",
    "database_unavailable": "tests/e2e/test_outages.py::test_the_database_away_nothing_hangs",
    "broker_unavailable": "tests/e2e/test_outages.py::test_the_broker_away_jobs_are_taken_and_done",
    "engine_changed": "tests/workers/test_local_job.py::test_units_wait_for_a_worker_of_the_version_that_planned",
    "attempts_exhausted": "tests/contracts/test_ledger_claims.py::test_a_unit_that_never_finishes_fails_its_job",
    "internal": "tests/web/test_requests.py::test_an_error_that_nobody_foresaw_tells_nothing",
}


def test_the_table_has_every_code() -> None:
    assert PRODUCED.keys() == CODES.keys()


@pytest.mark.parametrize("code", sorted(PRODUCED))
def test_a_code_is_produced(code: str) -> None:
    file, _, name = PRODUCED[code].partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]
    assert functions, f"{file} has no {name}"
    assert code in _claimed(functions[0]), f"{name} does not hold anything to {code}"


def _claimed(test: ast.AST) -> set[str]:
    """The words that a test holds something to: in an `assert`, in a parameter, or given to one of
    what fails unless it comes about."""
    holding = ("raises", "refused", "check_problem")
    claims = [
        node
        for node in ast.walk(test)
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in holding)
    ]
    if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
        claims += test.decorator_list
    return {
        node.value
        for claim in claims
        for node in ast.walk(claim)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_what_others_call_it_stands_for_a_code_of_ours() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    table = page.partition("## Under other names")[2]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", table, re.MULTILINE)
    assert {other for other, _ in rows} == {"worker_lost", "group_size_mismatch"}
    for other, ours in rows:
        assert other not in CODES
        assert ours in CODES
