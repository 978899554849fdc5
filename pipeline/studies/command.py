"""The command `depth study`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline import paths
from pipeline.errors import PipelineError

DESCRIPTION = """\
Run every variant and seed of the studies that is not in reports/studies.json yet, each as a DVC experiment with its
own MLflow run; note what came out there, and write docs/experiments.md and its plots.

  depth study studies/ssim_weight.yaml --jobs 2
  depth study studies/*.yaml -S fetch.source=file -S fetch.file.labeled=/data/nyu_depth_v2_labeled.mat
  depth study --render

A call that was interrupted or killed is gone on with by the same call. Commit the results: `dvc exp apply` discards
what is not committed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="studies, as studies/NAME.yaml")
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="what differs by machine: whence the frames come (fetch.…), where is computed (train.device, …)",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="J", help="experiments at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="also what is recorded already; DVC restores what it has of the same code, data and parameters",
    )
    parser.add_argument("--render", action="store_true", help="run nothing, only write the page and its plots")
    parser.set_defaults(do=lambda given: study(given.files, given.overrides, given.jobs, given.again, given.render))


def study(files: Sequence[Path], overrides: Sequence[str], jobs: int, again: bool, render: bool) -> None:
    """Run studies, then write the page of all. Raises `PipelineError` before anything is queued if one is wrong."""
    from pipeline.studies.declaration import read_studies, read_study
    from pipeline.studies.page import write_page

    if render:
        if files or overrides or again:
            raise PipelineError("--render writes the page of all studies and takes no files and no other option")
        write_page(read_studies())
        return
    if not files:
        raise PipelineError("name the files of studies, such as studies/*.yaml, or write the page with --render")
    if jobs < 1:
        raise PipelineError("--jobs must be 1 or more")
    from pipeline.studies.machine import machine_overrides
    from pipeline.studies.running import run_studies

    root = paths.repository_root()
    for file in files:
        if file.resolve().parent != (root / paths.STUDY_FILES).resolve():
            raise PipelineError(f"{file} does not lie in {paths.STUDY_FILES}/, where the page looks for studies")
    studies = [read_study(file) for file in dict.fromkeys(files)]
    read_studies()  # of all: a wrong one would be noticed at the end, when the page is written
    try:
        run_studies(studies, machine_overrides(overrides), jobs, again)
    finally:
        write_page(read_studies())
