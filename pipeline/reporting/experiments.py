"""The report's run among the others of the store: in what they differ, and how each scored.

Plain tables in, plain tables out. A table of runs has one row a run: `name`, `is_this`, `params.…` as text (as
MLflow keeps them), `val_rmse`, `test_rmse` in metres and `test_delta1`, NaN where a run has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.params import WHERE_COMPUTED
from pipeline.reporting.inputs import Experiments
from pipeline.tracking import table

UNCOMPARED = (
    "params.tracking.",
    "params.report.",
    "params.evaluate.examples",
    "params.evaluate.batch_size",
    *(f"params.{name}" for name in WHERE_COMPUTED),
)
"""Beginnings of parameters that change no score: what is shown and logged, and the hardware."""
SEED = "params.seed"
FAVOURITE = "params.loss.ssim_weight"
"""The parameter that this work is about: where several could be drawn, it comes first."""
SCORES = dict(zip(table.SCORES, ("val_rmse", "test_rmse", "test_delta1"), strict=True))
"""MLflow's names -> those of the columns."""
FEWEST_FOR_MAP = 4
"""Runs from which on two parameters are drawn against each other."""
MOST_AXES = 5
"""Parameters that parallel coordinates show: more cannot be read on a phone."""


def gather(this: Mapping[str, object], finished: pd.DataFrame, group: str | None, as_of: str) -> Experiments | None:
    """This run and those to compare it with; None where there is nothing to compare.

    this: a row of the table. finished: the table of `pipeline.tracking.compare.finished_rows`.
    group: a name given to the runs of a sweep; with two others of it, only they are taken.
    """
    others = finished.rename(columns=SCORES).assign(is_this=False)
    of_group = others[others["group"] == group] if group is not None else others[:0]
    if len(of_group) < 2:
        group, of_group = None, others
    runs = pd.concat([pd.DataFrame([{**this, "is_this": True}]), of_group], ignore_index=True)
    # Whoever only evaluates or reports again has the same weights and scores under another name.
    runs = runs.drop_duplicates(["training", "test_rmse", "test_delta1"], ignore_index=True)
    enough = len(runs) > 2 if group is not None else len(runs) > 1 and bool(differing(runs))
    return Experiments(runs, group, as_of, len(finished)) if enough else None


def previous(this: Mapping[str, object], finished: pd.DataFrame) -> dict[str, object] | None:
    """The run on the same data that finished last before this one, as a row of the table.

    Where none has the same data, that which finished last of all; None if there is none.

    this, finished: as for `gather`. Runs that only scored or reported the same weights again are this one.
    """
    others = finished.rename(columns=SCORES)
    same = (others["run_id"] == this["run_id"]) | (
        (others["training"] == this["training"])
        & (others["test_rmse"] == this["test_rmse"])
        & (others["test_delta1"] == this["test_delta1"])
    )
    others = others[~same]
    if others.empty:
        return None
    rows = [{str(name): value for name, value in row.items()} for _, row in others.iterrows()]
    return next((row for row in rows if same_data(this, row)), rows[0])


def same_data(this: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether the parameters give both the same frames and the same split into those trained and tested on."""
    names = [
        name for name in {*this, *other} if name.startswith("params.fetch.") or name == "params.preprocess.split"
    ]
    return all(text_of(this.get(name)) == text_of(other.get(name)) for name in names)


def text_of(value: object) -> str:
    """MLflow keeps parameters as text; a run of older code lacks some."""
    return "" if value is None or value != value else str(value)


def differing(runs: pd.DataFrame) -> list[str]:
    """The columns of the parameters in which the runs differ, the favourite first, the seed last."""
    names = [
        name
        for name in runs.columns
        if name.startswith("params.") and not name.startswith(UNCOMPARED) and runs[name].fillna("").nunique() > 1
    ]
    return sorted(names, key=lambda name: (name == SEED, name != FAVOURITE))


def numeric(runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The parameters of these names that are numbers in every run, as numbers; the seed is none."""
    converted = runs[[name for name in names if name != SEED]].apply(pd.to_numeric, errors="coerce")
    return converted.loc[:, converted.notna().all()].astype(float)


def line_through_this(runs: pd.DataFrame) -> tuple[str, pd.DataFrame] | None:
    """The numeric parameter along which most can be seen, and the runs that share all others with this one.

    Seeds may differ. None if no parameter has two values among such runs.
    """
    names = differing(runs)
    this = runs[runs["is_this"]].iloc[0]
    best: tuple[str, pd.DataFrame] | None = None
    for name in numeric(runs, names).columns:
        rest = [other for other in names if other not in (name, SEED)]
        same = (runs[rest].fillna("") == this[rest].fillna("")).all(axis=1)
        members = runs[same].assign(value=pd.to_numeric(runs.loc[same, name]))
        if members["value"].nunique() >= 2 and (
            best is None or members["value"].nunique() > best[1]["value"].nunique()
        ):
            best = name, members
    return best


def by_value(members: pd.DataFrame, score: str) -> pd.DataFrame:
    """`value`, `mean`, `spread` (standard deviation over seeds; NaN for one run) and `n`, ascending."""
    groups = members.dropna(subset=[score]).groupby("value")[score]
    return pd.DataFrame({"mean": groups.mean(), "spread": groups.std(ddof=1), "n": groups.size()}).reset_index()


def seeds_of_this(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that differ from this one in the seed at most, itself included."""
    names = [name for name in differing(runs) if name != SEED]
    this = runs[runs["is_this"]].iloc[0]
    return runs[(runs[names].fillna("") == this[names].fillna("")).all(axis=1)]


def score_of_search(runs: pd.DataFrame) -> str:
    """Runs are ranked by validation; by the test only where some run has no validation frames."""
    return "val_rmse" if runs["val_rmse"].notna().all() else "test_rmse"


def axes_of_search(runs: pd.DataFrame) -> pd.DataFrame:
    """The numeric parameters that vary, those first that go with the score most closely; at most five."""
    values = numeric(runs, differing(runs))
    score = runs[score_of_search(runs)]
    if not len(values.columns):
        return values
    strength = values.rank().corrwith(score.rank()).abs().fillna(0.0)
    ordered = sorted(values.columns, key=lambda name: (name != FAVOURITE, -float(strength[name])))
    return values[ordered[:MOST_AXES]]


def is_wide(values: pd.Series) -> bool:
    """Whether a logarithmic axis shows the values better: rates and decays are tried over powers of ten.

    A weight drawn evenly from 0 to 1 may also span some, but most of its values do not crowd at the low end.
    """
    low, high = values.min(), values.max()
    return bool(low > 0 and high / low >= 10 and values.median() - low < 0.25 * (high - low))


def short(name: str) -> str:
    """The parameter's name in params.yaml."""
    return name.removeprefix("params.")


def fills_a_plane(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the points span an area, which contours need."""
    points = np.unique(np.column_stack([x, y]), axis=0)
    return len(points) >= 4 and np.linalg.matrix_rank(points - points.mean(axis=0), tol=1e-9) == 2
