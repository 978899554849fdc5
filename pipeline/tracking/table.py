"""The table in which finished runs are compared. Whoever only hands its rows on needs no pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

OBJECTIVE = "val/rmse"
"""What experiments are compared by, best of all epochs: the checkpoint that is scored is that epoch's."""
JUDGED_BY = "test/full/rmse"
"""What is said of an experiment in the end: a run without it has not been evaluated."""
SCORES = (OBJECTIVE, JUDGED_BY, "test/full/delta1")
"""What the table compares: of the objective the best of all epochs."""


def table_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each run.

    Columns: `run_id`, `name`, `group`, `training` (the run whose weights it has: its own id, unless it reuses
    them), `params.…` as text, and the scores, NaN where a run has none.
    """
    import pandas as pd

    columns = ["run_id", "name", "group", "training", *SCORES]
    return pd.DataFrame(rows, columns=None if rows else columns).astype(dict.fromkeys(SCORES, float))
