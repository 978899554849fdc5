"""The command `depth compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import paths
from pipeline.errors import PipelineError

DESCRIPTION = """\
Write a page that holds experiments against the first of them: parameters that differ, metrics with differences and
whether these exceed the confidence interval, curves overlaid, the same test frames side by side.

  depth compare workspace more-ssim            # the results here and an experiment
  depth compare main more-ssim 3f2a9c8         # a branch or commit, which holds results, as reference
  depth compare 5e1b…c07 other-run             # ids or names of MLflow runs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument(
        "names",
        nargs="+",
        metavar="EXP",
        help="`workspace`, a DVC experiment, a git revision or an MLflow run; the first is the reference",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"where the page goes (default: {paths.COMPARISON})"
    )
    parser.set_defaults(do=compare)


def compare(options: argparse.Namespace) -> None:
    """Write the page, and print what it says first."""
    names = list(options.names)
    # Also of one that is named twice: it would look like two experiments that agree.
    if len(set(names)) < max(2, len(names)):
        raise PipelineError("name two different experiments or more; `dvc exp show` lists them")

    from pipeline.comparison.lookup import Lookup  # DVC takes a second to import, matplotlib another
    from pipeline.files import write_text
    from pipeline.reporting.compared import MOST, certainty, verdict
    from pipeline.reporting.comparison import render_comparison

    if len(names) > MOST:
        raise PipelineError(
            f"{len(names)} experiments are too many for one page, at most {MOST}; "
            "`dvc exp show` and `depth ui` compare more"
        )
    with Lookup() as lookup:
        runs = [lookup.read(name) for name in names]
    out = options.out or paths.repository_root() / paths.COMPARISON
    write_text(out, render_comparison(runs))
    print(f"{verdict(runs)}.")
    if sure := certainty(runs):
        print(f"{sure}.")
    print(f"wrote {out}")
