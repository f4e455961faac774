"""The ledger in SQL: all verbs of the port, grouped by who needs them."""

from __future__ import annotations

from service.adapters.sql.analysis import AnalysisVerbs
from service.adapters.sql.bulk import BulkVerbs
from service.adapters.sql.claims import ClaimVerbs
from service.adapters.sql.finish import FinishVerbs
from service.adapters.sql.jobs import JobVerbs
from service.adapters.sql.levels import LevelVerbs
from service.adapters.sql.plans import PlanVerbs
from service.adapters.sql.queries import Queries
from service.adapters.sql.succession import SuccessionVerbs
from service.adapters.sql.sweep import SweepVerbs
from service.domain.ports import Ledger


class SqlLedger(
    JobVerbs,
    BulkVerbs,
    Queries,
    ClaimVerbs,
    PlanVerbs,
    AnalysisVerbs,
    LevelVerbs,
    FinishVerbs,
    SweepVerbs,
    SuccessionVerbs,
    Ledger,
):
    """`Ledger` on SQLite or PostgreSQL.

    lease_s       a worker that does not renew its lease for so long has lost the unit
    keep_days     of a tenant: how many days its jobs are kept after their end; None: for ever
    max_attempts  a unit claimed this often without finishing fails its job
    quota         the limits of tenants that have none of their own
    """
