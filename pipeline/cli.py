"""The command `depth`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pipeline import paths
from pipeline.comparison.command import add_arguments as add_compare_arguments
from pipeline.errors import PipelineError, reported_to_user
from pipeline.export.command import add_arguments as add_export_arguments
from pipeline.prediction.command import add_arguments as add_predict_arguments
from pipeline.prediction.demo import add_arguments as add_demo_arguments
from pipeline.studies.command import add_arguments as add_study_arguments
from pipeline.sweeps.command import add_arguments as add_sweep_arguments


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="depth",
        description="Monocular depth: run experiments, compare them, keep the best model and use it.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add_predict_arguments(commands.add_parser("predict", help="predict the depth of images and videos"))
    add_demo_arguments(commands.add_parser("demo", help="predict depth on a web page of this machine"))

    add_export_arguments(commands.add_parser("export", help="write the network as a file for other programs"))

    add_compare_arguments(commands.add_parser("compare", help="hold several experiments against one, as a page"))

    ui = commands.add_parser(
        "ui",
        help="open MLflow's UI on this machine",
        description="Serve MLflow's UI for the store of this repository (or MLFLOW_TRACKING_URI) on loopback, "
        "until Ctrl-C.",
    )
    ui.add_argument("--port", type=int, default=5000, help="port on loopback (default: %(default)s)")
    ui.set_defaults(do=lambda given: browse_runs(given.port))

    sync = commands.add_parser(
        "sync",
        help="give every DVC experiment its MLflow run",
        description="Make the MLflow runs of DVC experiments that DVC restored from its cache, complete those that "
        "lack reused stages, rename those of renamed ones, and send what was kept while the server could not be "
        "reached.",
    )
    sync.set_defaults(do=lambda given: sync_runs())

    prune = commands.add_parser(
        "prune",
        help="delete the MLflow runs of removed and failed DVC experiments",
        description="Show the runs of this clone whose DVC experiment was removed, that failed or were killed, or "
        "that a later attempt has replaced; with --yes delete them for good, with their artifacts. A run that "
        "trained the weights of one that stays, or those of the present commit, is left.",
    )
    prune.add_argument("--yes", action="store_true", help="delete what is shown")
    prune.set_defaults(do=lambda given: prune_runs(given.yes))

    promotion = commands.add_parser(
        "promote",
        help="register a run's model, and make it champion if it beats the present one",
        description="Register the best checkpoint of a run as a version of the model `depth` in MLflow. It gets "
        "the alias `champion` if none has, or if its RMSE on the same test frames is lower by more than the 95 %% "
        "confidence interval (paired bootstrap over the frames); else the exit status is 1.",
    )
    promotion.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="id or name of an MLflow run, or of a DVC experiment (default: that of the weights in models/)",
    )
    promotion.add_argument(
        "--protocol",
        default="full",
        metavar="NAME",
        help="whose RMSE per image counts: full, eigen or densedepth (default: %(default)s)",
    )
    promotion.add_argument(
        "--force", action="store_true", help="make it champion also if it is not better or cannot be compared"
    )
    promotion.set_defaults(do=lambda given: promote_run(given.run, given.protocol, given.force))

    add_sweep_arguments(commands.add_parser("sweep", help="run many experiments: a grid of values, or a search"))

    add_study_arguments(commands.add_parser("study", help="run the studies of studies/ and write what came out"))

    # Its options are its own: they stand in `benchmarks`, which belongs to the working tree, not to this package.
    bench = commands.add_parser(
        "bench",
        help="measure how fast it is, against limits",
        description="Run the benchmarks of this repository and write reports/benchmarks.json.",
        add_help=False,
    )
    bench.set_defaults(do=lambda given: run_benchmarks(given.others))

    options, others = parser.parse_known_args(arguments)
    if others and options.command != "bench":
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    options.others = others
    with reported_to_user(f"depth {options.command}"):
        options.do(options)


def browse_runs(port: int) -> None:
    from pipeline.ui import serve_ui

    serve_ui(port)


def sync_runs() -> None:
    from pipeline.experiments import files_of, list_experiments
    from pipeline.tracking.sync import sync

    synced = sync(list_experiments(), files_of)
    told = {"renamed": synced.renamed, "made": synced.made, "completed": synced.completed}
    for what, names in told.items():
        if names:
            print(f"{what} the run of {', '.join(names)}")
    if synced.sent:
        print(f"sent what was kept of {synced.sent} {'run' if synced.sent == 1 else 'runs'}")
    if not (any(told.values()) or synced.sent):
        print("every DVC experiment has its complete run")


def prune_runs(yes: bool) -> None:
    from pipeline.experiments import files_of, list_experiments
    from pipeline.tracking.prune import delete_for_good, find_leftovers

    leftovers = find_leftovers(list_experiments(), files_of)
    for leftover in leftovers:
        print(f"{leftover.run_id}  {leftover.name}  ({leftover.reason})")
    if not leftovers:
        print("no run is left over")
    elif yes:
        delete_for_good(leftovers)
        print(f"deleted {len(leftovers)} runs with their artifacts")
    else:
        print(f"`depth prune --yes` deletes these {len(leftovers)} runs for good")


def promote_run(run: str | None, protocol: str, force: bool) -> None:
    from pipeline.tracking.promote import promote

    verdict = promote(run, protocol, force)
    for line in verdict.lines():
        print(line)
    if not verdict.is_champion:
        raise PipelineError(
            f"version {verdict.version} is not champion: its RMSE is not lower than that of version "
            f"{verdict.before} by more than the interval; --force makes it champion all the same"
        )


def run_benchmarks(arguments: Sequence[str]) -> NoReturn:
    """Become `python -m benchmarks` in the repository's root: Ctrl-C reaches it directly, and it cleans up."""
    root = paths.repository_root()
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise PipelineError(f"{root} holds no benchmarks; run this in a clone of the repository")
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *arguments])


if __name__ == "__main__":
    main()
