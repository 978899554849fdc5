"""`python -m benchmarks [NAME...]`, which `depth bench` runs from the repository's root."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.entries import environment_of, save, table
from pipeline import paths
from pipeline.errors import reported_to_user

SUBJECTS = {
    "data": "reading and preprocessing the labelled file, in time and memory; rendering rooms (6 minutes)",
    "tracking": "share of the training time that logging to MLflow takes (6 minutes)",
    "loader": "training from batches against a DataLoader over image files (3 minutes)",
    "step": "speed of the training loop against the network alone (5 minutes)",
    "ssim": "SSIM with its gradient against three packages (1 minute)",
    "evaluate": "scoring 654 frames under all protocols against an evaluator in numpy (1 minute)",
    "start": "seconds from the start of the train stage to its first step (1 minute)",
    "gpu100": "100 epochs of 795 frames at 240 x 320 on a GPU",
    "predict": "speed of prediction against two networks of MobileNetV2's size (5 minutes)",
    "folder": "preprocessing of folders: memory by the number of images, and speed (2 minutes)",
    "memory": "peak memory of a training, frames kept or streamed, by their number (4 minutes)",
}
"""Name of the module here -> what it measures."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="depth bench",
        description="Measure, print a table, and write the figures into FILE.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["names:", *(f"  {name:<10} {what}" for name, what in SUBJECTS.items())]),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: everything)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"results (default: {paths.BENCHMARKS})")
    parser.add_argument(
        "--quick", action="store_true", help="smallest sizes: shows that it works; written only with --out"
    )
    options = parser.parse_args()
    for name in options.names:
        if name not in SUBJECTS:
            parser.error(f"there is no benchmark '{name}'; there is {', '.join(SUBJECTS)}")
    out = options.out or (None if options.quick else paths.BENCHMARKS)
    with reported_to_user("depth bench"):
        for name in options.names or SUBJECTS:
            entries = importlib.import_module(f"benchmarks.{name}").measure(options.quick)
            if out is not None:
                for device in {entry.device for entry in entries}:
                    save([e for e in entries if e.device == device], environment_of(device), out)
            if entries:
                print(table(entries), flush=True)


if __name__ == "__main__":
    main()
