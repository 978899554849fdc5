"""Every combination of some listed values, as `dvc exp run --queue` makes them, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from pipeline.errors import PipelineError
from pipeline.progress import progress_bar
from pipeline.sweeps.queue import Queue, State
from pipeline.sweeps.space import bare_key
from pipeline.tracking.compare import Result

POLL_S = 2.0
PATIENCE = 5
"""After how many looks in a row an experiment whose process is gone counts as failed."""


def run_grid(overrides: Sequence[str], queue: Queue) -> dict[str, State]:
    """Queue every combination, wait until all have ended, and return how, by the names that DVC invented.

    An interruption takes them out of the queue again; those that have ended stay experiments.
    """
    names = queue.submit(None, overrides)
    if not names:
        raise no_names_told()
    states = wait_for(names, queue, "sweep")
    for name in names:
        if states[name] is State.SUCCEEDED:
            queue.complete(name)
    return states


def no_names_told() -> PipelineError:
    """DVC says it in other words than it did."""
    return PipelineError(
        "`dvc exp run --queue` did not say which experiments it queued; `dvc queue status` lists them, "
        "`dvc queue remove --queued` takes them out"
    )


def wait_for(
    names: Sequence[str], queue: Queue, what: str, ended: Callable[[str, State], None] = lambda name, state: None
) -> dict[str, State]:
    """Wait until these experiments of the queue have ended, and return how.

    what: for the progress bar. ended: called as each ends. An interruption takes those left out of the queue again.
    """
    states: dict[str, State] = {}
    missing = dict.fromkeys(names, 0)
    try:
        with progress_bar(len(names), what, "experiment") as progress:
            while len(states) < len(names):
                found = queue.states()
                for name in names:
                    state = found.get(name, State.LOST)
                    missing[name] = missing[name] + 1 if state is State.LOST else 0
                    if name in states:
                        continue
                    if state in (State.SUCCEEDED, State.FAILED) or missing[name] >= PATIENCE:
                        states[name] = state
                        ended(name, state)
                        progress.update()
                if len(states) < len(names):
                    time.sleep(POLL_S)
    except BaseException:
        queue.stop(set(names) - set(states))
        raise
    return states


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The parameters that have several values in a grid, in its order; all of them if none has."""
    pairs = [item.partition("=")[::2] for item in overrides if bare_key(item) != "tracking.group"]
    several = [pair for pair in pairs if "," in pair[1]]  # a,b and choice(a,b) and range(a,b)
    return [bare_key(key) for key, _ in several or pairs]


def best_of(results: Mapping[str, Result | None]) -> str | None:
    """The experiment of the lowest validation error; of the test where there are no validation frames."""
    errors = {
        name: result.metrics.get("test/full/rmse") if result.best is None else result.best
        for name, result in results.items()
        if result is not None
    }
    known = {name: error for name, error in errors.items() if error is not None}
    return min(known, key=known.__getitem__) if known else None


def table(keys: Sequence[str], results: dict[str, Result | None], states: dict[str, State]) -> str:
    """The experiments by their values of `keys`, with the errors of validation and test."""
    columns = [*keys, "val RMSE (m)", "test RMSE (m)", "test δ1", "experiment"]

    def order(name: str) -> list[tuple[int, float, str]]:
        result = results[name]
        return [_sortable(result.params.get(key, "") if result else "") for key in keys]

    rows = []
    for name in sorted(results, key=order):
        result = results[name]
        params, metrics = (result.params, result.metrics) if result else ({}, {})
        best = result.best if result else None
        failed = "" if states[name] is State.SUCCEEDED else f" ({states[name]})"
        rows.append(
            [
                *(params.get(key, "?") for key in keys),
                number(best),
                number(metrics.get("test/full/rmse")),
                number(metrics.get("test/full/delta1")),
                f"{name}{failed}",
            ]
        )
    return aligned([columns, *rows])


def _sortable(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns of equal width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def refuse_failures(states: dict[str, State], queue: Queue) -> None:
    """Raises `PipelineError` that names the experiments which did not succeed."""
    failed = [name for name, state in states.items() if state is not State.SUCCEEDED]
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(states)} experiments did not succeed ({', '.join(failed)}); "
            f"{queue.explain(failed[0])}"
        )
