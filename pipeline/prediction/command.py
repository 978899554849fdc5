"""The command `depth predict`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.prediction.models import DEFAULT_HELP
from pipeline.progress import progress_bar

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from pipeline.prediction.estimator import DepthEstimator
    from pipeline.prediction.inputs import Input
    from pipeline.prediction.results import Wanted

DESCRIPTION = """\
Predict the depth of photographs and videos of any size. For each image NAME the folder DIR gets
  NAME-depth.png          16-bit millimetres, of the image's own size
  NAME-depth-colour.png   the same in colours, near is bright
  NAME-side-by-side.jpg   photo, depth and a legend in metres
  NAME-depth.json         range and median in metres, units, camera, model, seconds
and for each video NAME-side-by-side.mp4 and NAME-depth.json.

An image is a JPEG, PNG, WebP, AVIF, TIFF, GIF, BMP, JPEG 2000, PNM, TGA, PCX, SGI or QOI file of up to 89 million
pixels: it is turned upright by its EXIF orientation, transparent pixels are seen over white, of several images in
one file (GIF, TIFF) the first is taken. Folders are searched at any depth and their order is kept in DIR. Of files
that would share a NAME all keep their extension in it. A file that cannot be read is named and skipped, and the
exit status is then 1.
"""
MODEL_HELP = (
    "checkpoint file; models:/NAME@ALIAS or models:/NAME/VERSION of MLflow's registry; or the id or name of a run, "
    f"as of the DVC experiment that it belongs to (default: {DEFAULT_HELP})"
)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", help=MODEL_HELP)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IMAGE|FOLDER|VIDEO", help="what to predict the depth of"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add_model_argument(parser)
    parser.add_argument(
        "--range",
        type=_range,
        dest="range_m",
        metavar="NEAR,FAR",
        help="metres that the ends of the colours stand for, the same for all (default: each image's own range)",
    )
    parser.add_argument("--npy", action="store_true", help="also write NAME-depth.npy, float32 metres")
    parser.add_argument(
        "--ply",
        action="store_true",
        help="also write NAME-cloud.ply, up to a million coloured points in metres: x right, y up, z to the viewer",
    )
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument(
        "--fov",
        type=_field_of_view,
        metavar="DEGREES",
        help="the camera's horizontal field of view, for --ply (default: 63.3 along the longer side, NYU's camera)",
    )
    camera.add_argument(
        "--camera", type=_camera, metavar="fx,fy,cx,cy", help="the camera in pixels of the image, for --ply"
    )
    parser.add_argument(
        "--frames",
        action="store_true",
        help="also write each frame's depth of a video: NAME-depth-frames/000001.png, …",
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="images predicted at once (default: %(default)s)"
    )
    add_device_argument(parser)
    parser.set_defaults(do=predict)


def predict(options: argparse.Namespace) -> None:
    """Predict what the parsed `options` name. Raises `PipelineError` at the end if a file could not be read."""
    from pipeline.prediction.inputs import find_inputs, refuse_losses

    if options.out.exists() and not options.out.is_dir():
        raise PipelineError(f"--out {options.out} is a file; name a folder")
    inputs = find_inputs(options.inputs, options.out)
    refuse_losses(inputs, options.out, options.frames)
    videos = [found for found in inputs if found.is_video]
    if videos:
        from pipeline.prediction.videos import refuse_without_av

        refuse_without_av()
    # Not before: torch takes a second and a half.
    from pipeline.data.camera import Pinhole
    from pipeline.prediction.estimator import DepthEstimator
    from pipeline.prediction.results import Wanted

    estimator = DepthEstimator(options.model, device=options.device, batch_size=options.batch_size)
    camera = Pinhole(*options.camera) if options.camera else None
    wanted = Wanted(options.npy, options.ply, camera, options.fov, options.range_m)
    skipped = _predict_images(estimator, [found for found in inputs if not found.is_video], options.out, wanted)
    skipped += _predict_videos(estimator, videos, options.out, options.range_m, options.frames)
    if skipped:
        raise PipelineError(f"{len(skipped)} of {len(inputs)} could not be read: {', '.join(map(str, skipped))}")


@dataclass(frozen=True)
class _Waiting:
    """An image until its batch is full. The photo itself is reduced by then: a large one takes 256 MB."""

    image: Input
    shown: Image.Image
    size: tuple[int, int]
    prepared: Tensor
    read_s: float


def _predict_images(estimator: DepthEstimator, images: Sequence[Input], out: Path, wanted: Wanted) -> list[Path]:
    """Write the results of each; the paths of those that cannot be read."""
    import numpy as np

    from pipeline.prediction.images import read_photo
    from pipeline.prediction.results import shown_photo

    skipped: list[Path] = []
    waiting: list[_Waiting] = []
    with progress_bar(len(images), "predict", "image", hidden=not images) as progress:
        for image in images:
            started = time.perf_counter()
            try:
                photo = read_photo(image.path)
            except PipelineError as error:
                progress.write(f"skipped: {error}", file=sys.stderr)
                skipped.append(image.path)
                progress.update()
                continue
            prepared = estimator.prepare(np.array(photo.rgb))
            shown = shown_photo(photo)
            waiting.append(_Waiting(image, shown, photo.size, prepared, time.perf_counter() - started))
            del photo
            if len(waiting) == estimator.batch_size:
                progress.update(_write_batch(estimator, waiting, out, wanted))
                waiting.clear()
        progress.update(_write_batch(estimator, waiting, out, wanted))
    return skipped


def _write_batch(estimator: DepthEstimator, batch: Sequence[_Waiting], out: Path, wanted: Wanted) -> int:
    import torch

    from pipeline.prediction.results import write_results

    if not batch:
        return 0
    started = time.perf_counter()
    small_m = estimator.predict(torch.stack([waiting.prepared for waiting in batch]))
    predict_s = (time.perf_counter() - started) / len(batch)
    for waiting, depth_m in zip(batch, small_m, strict=True):
        seconds = {"read": waiting.read_s, "predict": predict_s, "batch": len(batch)}
        facts = {"image": str(waiting.image.path), "model": estimator.facts, "seconds": seconds}
        write_results(out / waiting.image.name, waiting.shown, waiting.size, depth_m, wanted, facts)
    return len(batch)


def _predict_videos(
    estimator: DepthEstimator,
    videos: Sequence[Input],
    out: Path,
    range_m: tuple[float, float] | None,
    each_frame: bool,
) -> list[Path]:
    from pipeline.prediction.videos import predict_video

    skipped = []
    for video in videos:
        facts: dict[str, Any] = {"video": str(video.path), "model": estimator.facts}
        try:
            predict_video(estimator, video.path, out / video.name, range_m, each_frame, facts)
        except PipelineError as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped.append(video.path)
    return skipped


def _numbers(text: str, names: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(names.split(",")) or not all(abs(number) < 1e9 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not {names}")
    return numbers


def _range(text: str) -> tuple[float, float]:
    near_m, far_m = _numbers(text, "NEAR,FAR")
    if not 0 <= near_m < far_m:
        raise argparse.ArgumentTypeError(f"{text!r}: NEAR must be at least 0, and FAR more than NEAR")
    return near_m, far_m


def _field_of_view(text: str) -> float:
    (degrees,) = _numbers(text, "DEGREES")
    if not 1 <= degrees <= 179:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1 to 179 degrees")
    return degrees


def _camera(text: str) -> tuple[float, ...]:
    camera = _numbers(text, "fx,fy,cx,cy")
    if min(camera[:2]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: fx and fy must be more than 0")
    return tuple(camera)
