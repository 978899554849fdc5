"""The command `depth sweep`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from pipeline.errors import PipelineError
from pipeline.sweeps.space import SPACE, bare_key, refuse_bad_name

DESCRIPTION = f"""\
Run many experiments through DVC's queue, each with its own MLflow run; all share the tag `group`.

A grid: every combination of the values listed.
  depth sweep -S 'loss.ssim_weight=0.1,0.5,0.9' -S seed=0,1 --jobs 2

A search: --trials N lets Optuna propose values until N trials have ended in total, and ends hopeless ones early by
the validation RMSE of their epochs. The same --name goes on where an earlier call stopped. Searched are
{chr(10).join(f"  {key:<22} {values}" for key, values in SPACE.items())}
while -S holds other parameters at one value.
"""

NOT_SWEPT = {
    "tracking.group": "a sweep sets tracking.group itself, by --name",
    "tracking.experiment": "a sweep looks for its runs in the experiment that params.yaml names; change it there",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="as for `dvc exp run`; without --trials several values, separated by commas",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="search, until N trials have ended in total")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="J", help="experiments at a time (default: %(default)s)"
    )
    parser.add_argument("--name", help="name of the group, and of the search (default: search, or the grid's keys)")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the trials on this Ray cluster (HOST:6379, or auto), each in a clone of the commit; "
        "MLFLOW_TRACKING_URI must name a server",
    )
    parser.set_defaults(do=lambda given: sweep(given.overrides, given.trials, given.jobs, given.name, given.ray))


def sweep(
    overrides: Sequence[str], trials: int | None, jobs: int, name: str | None, ray_address: str | None
) -> None:
    """Run a grid or a search and print what came out."""
    if jobs < 1 or (trials is not None and trials < 1):
        raise PipelineError("--jobs and --trials must be 1 or more")
    for item in overrides:
        if "=" not in item:
            raise PipelineError(f"-S {item}: write KEY=VALUE")
        if reason := NOT_SWEPT.get(bare_key(item)):
            raise PipelineError(f"-S {item}: {reason}")
    if name:
        refuse_bad_name(name)
    if trials is None:
        if ray_address:
            raise PipelineError("--ray works with --trials only")
        if not overrides:
            raise PipelineError("give values to compare with -S KEY=VALUE,VALUE, or search with --trials N")
        sweep_grid(overrides, jobs, name)
    else:
        sweep_study(overrides, trials, jobs, name or "search", ray_address)


def sweep_grid(overrides: Sequence[str], jobs: int, name: str | None) -> None:
    from pipeline.params import load_params
    from pipeline.sweeps.grid import best_of, refuse_failures, run_grid, swept_keys, table
    from pipeline.sweeps.queue import Queue
    from pipeline.tracking.compare import Results

    keys = swept_keys(overrides)
    group = name or "-".join(key.rpartition(".")[2].replace("_", "-") for key in keys)
    queue = Queue(jobs, Results(load_params().tracking.experiment))
    states = run_grid([*overrides, f"tracking.group={group}"], queue)
    results = {name: queue.find(name) for name in states}
    print(table(keys, results, states))
    say_what_next(best_of(results))
    refuse_failures(states, queue)


def sweep_study(overrides: Sequence[str], trials: int, jobs: int, name: str, ray_address: str | None) -> None:
    from pipeline.params import load_params
    from pipeline.sweeps.cluster import Cluster, shared_store
    from pipeline.sweeps.queue import Queue
    from pipeline.sweeps.study import Executor, Study
    from pipeline.tracking.compare import Results

    if ray_address:
        shared_store()  # before anything is opened elsewhere
    results = Results(load_params().tracking.experiment)
    with contextlib.ExitStack() as stack:
        executor: Executor
        executor = stack.enter_context(Cluster(ray_address, results)) if ray_address else Queue(jobs, results)
        study = Study(name, SPACE, executor, fixed=overrides)
        study.run(trials, jobs)
    print(study.table())
    say_what_next(study.best())


def say_what_next(best: str | None) -> None:
    """Every report of a sweep was drawn while others still trained, so none shows the whole of it."""
    if best is not None:
        print(f"best: {best}; `dvc exp apply {best}` brings it into the working copy, and then")
        print("`dvc repro --single-item --force report` draws its report beside all the others")
