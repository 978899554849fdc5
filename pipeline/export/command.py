"""The command `depth export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.prediction.command import add_model_argument

FORMATS = ("onnx", "torchscript", "pt2")
DESCRIPTION = """\
Write a model's network as one file that runs without this project, for any number of images of any size
from 32 x 32. The file is checked against the network on several sizes before it is kept, and says in its metadata
what goes in, what comes out and where the network came from. onnx needs the extra `export`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("--format", choices=FORMATS, required=True, help="what kind of file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    add_model_argument(parser)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="onnx only: convolutions in 8 bits, set by training frames; says what that costs in accuracy",
    )
    parser.add_argument(
        "--shards",
        type=Path,
        default=paths.SHARDS,
        metavar="DIR",
        help="frames that --int8 is set and measured by (default: %(default)s)",
    )
    parser.set_defaults(do=export)


def export(options: argparse.Namespace) -> None:
    """Write, check and keep a file, and say what came of it."""
    if options.int8 and options.format != "onnx":
        raise PipelineError("--int8 works with --format onnx only")
    if options.out.is_dir():
        example = options.out / f"depth.{options.format}"
        raise PipelineError(f"--out {options.out} is a folder; name the file to write, such as {example}")
    if options.format == "onnx":
        import pipeline.export.onnx_files  # noqa: F401  says what to install before anything is done

    from pipeline.export.check import CHECKED, TOLERANCE_M, largest_difference
    from pipeline.export.formats import WRITERS_AND_RUNNERS
    from pipeline.export.graph import DepthGraph
    from pipeline.export.metadata import describe
    from pipeline.files import written_whole
    from pipeline.model.checkpoint import load_network, read_checkpoint_info
    from pipeline.prediction.models import checkpoint_file, chosen_model

    with checkpoint_file(chosen_model(options.model)) as path:
        network, info = load_network(path), read_checkpoint_info(path)
    max_depth_m = info.options["max_depth_m"]
    write, run = WRITERS_AND_RUNNERS[options.format]
    with written_whole(options.out) as partial:
        write(DepthGraph(network, max_depth_m), describe(info), partial)
        difference_m = largest_difference(run(partial), network, max_depth_m)
        lost = ""
        if options.int8:
            from pipeline.export.int8 import make_int8

            lost = make_int8(partial, options.shards, info.input_size)
    checked = "before it was quantised, at most" if options.int8 else "at most"
    print(
        f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB; {checked} {difference_m:.1e} m from the "
        f"network on {len(CHECKED)} sizes of images ({TOLERANCE_M:g} m are allowed)"
    )
    if lost:
        print(lost)
