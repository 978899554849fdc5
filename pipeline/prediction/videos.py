"""Videos, read and written by PyAV, whose wheels hold FFmpeg: the extra `video`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.files import write_json, written_whole
from pipeline.prediction.estimator import DepthEstimator, enlarged
from pipeline.prediction.images import MAX_PIXELS, Photo
from pipeline.prediction.inputs import FACTS, OF_VIDEOS, ending, refuse_other_files
from pipeline.prediction.pictures import side_by_side
from pipeline.prediction.results import depth_picture, shown_photo
from pipeline.progress import progress_bar

DEMUXERS = "avi,m4v,matroska,mov,mpeg,mpegts,mpegvideo"
"""FFmpeg tells what a file is by its content; some of what it knows (ffconcat, HLS, DASH) are lists of other
files, or of addresses, to be read in its place."""
SHOWN_PIXELS = 640 * 480
"""Of each half of the side-by-side video."""
OUTLIERS = 1.0
"""Per cent of a frame's pixels at either end that the range of the colours leaves out."""
QUALITY = "21"
"""x264's constant rate factor: 18 cannot be told from the original, 23 is its default."""


@dataclass(frozen=True)
class _Waiting:
    """A frame until its batch is full, reduced: sixteen whole ones of 8K take 1.6 GB."""

    shown: Image.Image
    size: tuple[int, int]
    prepared: torch.Tensor
    time: Fraction


@dataclass(frozen=True)
class Frame:
    rgb_u8: np.ndarray
    """(H, W, 3), upright"""
    time: Fraction
    """seconds since the first frame"""


def predict_video(
    estimator: DepthEstimator,
    path: Path,
    name: Path,
    range_m: tuple[float, float] | None,
    each_frame: bool,
    facts: dict[str, Any],
) -> None:
    """Write a video of the frames beside their depth, a JSON and, if wanted, the depth of `each_frame` as PNGs.

    name: path to which each result adds its ending. range_m: what the colours stand for; None for the range so far
    of the video, which only ever widens: that of each frame alone would flicker. Raises `PipelineError` if the
    video cannot be read, and leaves nothing then.
    """
    started = time.perf_counter()
    low_m, high_m, count, size = np.inf, 0.0, 0, (0, 0)
    near_m, far_m = range_m or (np.inf, 0.0)
    video, folder = ending(name, OF_VIDEOS["side_by_side"]), ending(name, OF_VIDEOS["depth_mm"])
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(written_whole(video))
        frames_folder = stack.enter_context(_folder_written_whole(folder)) if each_frame else None
        frames, total = stack.enter_context(opened_video(path))
        write = stack.enter_context(video_writer(partial))
        progress = stack.enter_context(progress_bar(total, path.name, "frame"))
        reduced = (_reduced(estimator, frame) for frame in frames)
        while batch := list(islice(reduced, estimator.batch_size)):
            small_m = estimator.predict(torch.stack([waiting.prepared for waiting in batch]))
            for waiting, depth_m in zip(batch, small_m, strict=True):
                count, size, shown = count + 1, waiting.size, waiting.shown
                shown_m = enlarged(depth_m, (shown.height, shown.width))
                low_m, high_m = min(low_m, float(shown_m.min())), max(high_m, float(shown_m.max()))
                if range_m is None:
                    near, far = np.percentile(shown_m, (OUTLIERS, 100 - OUTLIERS))
                    near_m, far_m = min(near_m, float(near)), max(far_m, float(far))
                write(side_by_side(shown, shown_m, near_m, far_m), waiting.time)
                if frames_folder is not None:
                    depth_picture(enlarged(depth_m, size)).save(frames_folder / f"{count:06d}.png")
                progress.update()
        if not count:
            raise PipelineError(f"{path} cannot be read as a video: it has no frames")
    content = {
        "width": size[1],
        "height": size[0],
        "frames": count,
        "depth": {"min": low_m, "max": high_m, "unit": "metre"},
        "colours": {"near": near_m, "far": far_m, "unit": "metre"},
        "seconds": time.perf_counter() - started,
        "files": {"side_by_side": video.name} | ({"depth_mm": folder.name} if each_frame else {}),
    }
    write_json(ending(name, FACTS), facts | content)


def _reduced(estimator: DepthEstimator, frame: Frame) -> _Waiting:
    size = (frame.rgb_u8.shape[0], frame.rgb_u8.shape[1])
    shown = shown_photo(Photo(Image.fromarray(frame.rgb_u8), size), SHOWN_PIXELS)
    return _Waiting(shown, size, estimator.prepare(frame.rgb_u8), frame.time)


def refuse_without_av() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise PipelineError(
            "videos need PyAV, which is not installed: pip install --no-deps -r requirements-video.lock"
        ) from error


@contextlib.contextmanager
def opened_video(path: Path) -> Iterator[tuple[Iterator[Frame], int]]:
    """The frames of a video, upright, and how many there are as far as the file tells (0 if it does not)."""
    import av

    with _told(path):
        only_itself = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
        container = av.open(f"file:{path}", container_options=only_itself)
    with container:
        if not container.streams.video:
            raise PipelineError(f"{path} cannot be read as a video: it has no pictures")
        stream = container.streams.video[0]
        _refuse_large(path, stream.width, stream.height)
        total = stream.frames
        if not total and stream.duration and stream.time_base and stream.average_rate:
            total = round(stream.duration * stream.time_base * stream.average_rate)
        yield _frames(container, stream, path), total


def _frames(container: Any, stream: Any, path: Path) -> Iterator[Frame]:
    first: Fraction | None = None
    rate = stream.average_rate or Fraction(25)
    with _told(path):
        for number, frame in enumerate(container.decode(stream)):
            _refuse_large(path, frame.width, frame.height)  # they may grow on the way
            at = Fraction(number) / rate if frame.pts is None else frame.pts * frame.time_base
            first = at if first is None else first
            # Phones video lying on their side and say by how much to turn the frames anticlockwise.
            turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            yield Frame(np.ascontiguousarray(turned), at - first)


def _refuse_large(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PipelineError(
            f"{path} has {width} x {height} pixels; at most {MAX_PIXELS / 1e6:.3g} million are read, "
            "so make it smaller first"
        )


@contextlib.contextmanager
def video_writer(path: Path) -> Iterator[Any]:
    """A function that adds a picture at a time in seconds to an mp4 (H.264, no sound)."""
    import av

    ticks = 90_000  # a second; the usual clock of videos, in which common frame rates are whole numbers
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", options={"crf": QUALITY, "preset": "fast"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, ticks)

        def write(picture: Image.Image, at: Fraction) -> None:
            if not stream.codec_context.is_open:
                stream.width, stream.height = picture.size
            elif picture.size != (stream.width, stream.height):
                picture = picture.resize((stream.width, stream.height))
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = round(at * ticks), Fraction(1, ticks)
            container.mux(stream.encode(frame))

        yield write
        if stream.codec_context.is_open:
            container.mux(stream.encode(None))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise PipelineError(f"{path} cannot be read as a video: {error.strerror}") from error


@contextlib.contextmanager
def _folder_written_whole(folder: Path) -> Iterator[Path]:
    """As `written_whole`, for a folder of the depth of frames: it appears with all its files, in place of an
    earlier one, or not at all. Raises `PipelineError` if the earlier one holds anything else."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.partial-", dir=folder.parent) as scratch:
        partial = Path(scratch) / folder.name  # made here, as the scratch folder is its owner's alone
        partial.mkdir()
        yield partial
        refuse_other_files(folder)
        if folder.exists():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        partial.rename(folder)
