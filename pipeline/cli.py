"""The command `depth`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import paths
from pipeline.errors import PipelineError, reported_to_user


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="depth", description="Monocular depth: look at experiments, predict depth for images."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="predict the depth of images",
        description="Write NAME-depth.png (16-bit millimetres, the image's own size) and NAME-depth-colour.png "
        "for each image.",
    )
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    predict.add_argument(
        "--model",
        type=Path,
        default=paths.BEST_CHECKPOINT,
        metavar="FILE",
        help="checkpoint to use (default: %(default)s)",
    )

    ui = commands.add_parser(
        "ui",
        help="open MLflow's UI on this machine",
        description="Serve MLflow's UI for the store of this repository (or MLFLOW_TRACKING_URI) on loopback, "
        "until Ctrl-C.",
    )
    ui.add_argument("--port", type=int, default=5000, help="port on loopback (default: %(default)s)")

    commands.add_parser(
        "sync",
        help="give every DVC experiment its MLflow run",
        description="Make the MLflow runs of DVC experiments that DVC restored from its cache, complete those that "
        "lack reused stages, and send what was kept while the server could not be reached.",
    )
    prune = commands.add_parser(
        "prune",
        help="delete the MLflow runs of removed DVC experiments",
        description="Show the runs of this clone whose DVC experiment was removed or that a later attempt has "
        "replaced; with --yes delete them for good, with their artifacts.",
    )
    prune.add_argument("--yes", action="store_true", help="delete what is shown")

    options = parser.parse_args(arguments)
    with reported_to_user(f"depth {options.command}"):
        if options.command == "predict":
            predict_images(options.images, options.out, options.model)
        elif options.command == "sync":
            sync_runs()
        elif options.command == "prune":
            prune_runs(options.yes)
        else:
            serve_ui(options.port)


def predict_images(images: Sequence[Path], out: Path, model: Path) -> None:
    """Write the depth of each image into `out`; an unreadable image is named before any work is done."""
    from pipeline.inference import open_image, predict_image, write_depth
    from pipeline.model.checkpoint import load_network, read_checkpoint_info
    from pipeline.progress import progress_bar

    network, info = load_network(model), read_checkpoint_info(model)
    stems = [image.stem for image in images]
    if len(set(stems)) < len(stems):
        raise PipelineError("two images have the same name, so their results would; predict them separately")
    for image in images:
        open_image(image).close()
    with progress_bar(len(images), "predict", "image") as progress:
        for image in images:
            with open_image(image) as opened:
                depth_m = predict_image(network, info, opened)
            write_depth(out, image.stem, depth_m)
            progress.update()


def sync_runs() -> None:
    from pipeline.experiments import files_of, list_experiments
    from pipeline.tracking.sync import sync

    synced = sync(list_experiments(), files_of)
    for what, names in (("made", synced.made), ("completed", synced.completed)):
        if names:
            print(f"{what} the run of {', '.join(names)}")
    if synced.sent:
        print(f"sent what was kept of {synced.sent} {'run' if synced.sent == 1 else 'runs'}")
    if not (synced.made or synced.completed or synced.sent):
        print("every DVC experiment has its complete run")


def prune_runs(yes: bool) -> None:
    from pipeline.experiments import list_experiments
    from pipeline.tracking.sync import delete_for_good, find_leftovers

    leftovers = find_leftovers(list_experiments())
    for leftover in leftovers:
        print(f"{leftover.run_id}  {leftover.name}  ({leftover.reason})")
    if not leftovers:
        print("no run is left over")
    elif yes:
        delete_for_good(leftovers)
        print(f"deleted {len(leftovers)} runs with their artifacts")
    else:
        print(f"`depth prune --yes` deletes these {len(leftovers)} runs for good")


def serve_ui(port: int) -> None:
    from pipeline.tracking import open_store, store_uri

    open_store()  # makes an empty store on first use, and refuses a broken one with one line
    if store_uri().startswith("http"):
        print(f"the runs are on a server that has its own UI: {store_uri()}")
        return
    print(f"MLflow at http://127.0.0.1:{port} on {store_uri()}; Ctrl-C ends it", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Without jobs and with one worker: 5 s and 0.5 GB to start instead of 12 s and 3.1 GB.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    # A closed terminal and a polite kill end the server's processes like Ctrl-C does.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = server.wait()
    except KeyboardInterrupt:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        return
    if status:
        raise PipelineError(f"MLflow's server ended with status {status}; is port {port} taken? Try --port")


if __name__ == "__main__":
    main()
