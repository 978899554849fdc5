"""Which images and videos are to be predicted, and what their results are called."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prediction.images import readable_extensions

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
OF_IMAGES = {
    "depth_mm": "-depth.png",
    "colours": "-depth-colour.png",
    "side_by_side": "-side-by-side.jpg",
    "depth_m": "-depth.npy",
    "cloud": "-cloud.ply",
}
OF_VIDEOS = {"side_by_side": "-side-by-side.mp4", "depth_mm": "-depth-frames"}
"""The second is a folder, of a PNG for each frame."""
FACTS = "-depth.json"
FRAME = re.compile(r"\d{6}\.png")


@dataclass(frozen=True)
class Input:
    path: Path
    name: Path
    """of its results, relative to the folder for them, to which each adds its own ending"""

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


def find_inputs(given: Sequence[Path], out: Path) -> list[Input]:
    """The files that are given, and those of the folders that are given, at any depth and in the order of names.

    Of a folder only what has the extension of an image or video counts, and nothing hidden or under `out`, where
    earlier results lie. A file that is met twice counts once. Raises `PipelineError` if one is not there or a
    folder has none.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    """resolved path -> the path as given, and that which its results are named by"""
    extensions = readable_extensions() | VIDEOS
    for path in given:
        if path.is_dir():
            if path.resolve() == out.resolve():
                raise PipelineError(
                    f"--out is {path} itself, whose images are to be predicted; name another folder"
                )
            inside = [file for file in _files_in(path, out.resolve()) if file.suffix.lower() in extensions]
            if not inside:
                raise PipelineError(f"{path} holds no image and no video")
            pairs = [(file, file.relative_to(path)) for file in inside]
        elif path.is_file():
            pairs = [(path, Path(path.name))]
        elif path.exists():
            raise PipelineError(f"{path} is neither a file nor a folder")  # a pipe would be waited for
        else:
            raise PipelineError(f"{path} does not exist")
        for file, relative in pairs:
            found.setdefault(file.resolve(), (file, relative))
    names = _distinct(list(found.items()))
    return [Input(file, name) for (file, _), name in zip(found.values(), names, strict=True)]


def refuse_losses(inputs: Sequence[Input], out: Path, each_frame: bool) -> None:
    """Raise `PipelineError` if a result would replace one of the inputs, or a folder of something else."""
    given = {one.path.resolve(): one.path for one in inputs}
    for one in inputs:
        name = out / one.name
        if one.is_video and each_frame:
            folder = ending(name, OF_VIDEOS["depth_mm"])
            refuse_other_files(folder)
            results = [path for path in given if path.parent == folder.resolve()]
        else:
            results = []
        endings = (OF_VIDEOS if one.is_video else OF_IMAGES).values()
        results += [ending(name, text).resolve() for text in (*endings, FACTS)]
        for result in results:
            if result in given:
                raise PipelineError(
                    f"{given[result]}, which is to be predicted, would be replaced by a result of {one.path}; "
                    "name another folder with --out"
                )


def refuse_other_files(folder: Path) -> None:
    """Raise `PipelineError` if a folder for the depth of frames holds anything else; it need not be there."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise PipelineError(f"{folder}, where the depth of frames belongs, is no folder; move it away")
    for path in folder.iterdir() if folder.exists() else ():
        if not FRAME.fullmatch(path.name) or path.is_dir():
            raise PipelineError(
                f"{folder}, where the depth of frames belongs, holds {path.name}, which is none; "
                "move it away, or name another folder with --out"
            )


def ending(name: Path, text: str) -> Path:
    """`name` may hold dots, which are no suffix."""
    return name.with_name(name.name + text)


def _files_in(folder: Path, out: Path) -> list[Path]:
    files = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (here / name).resolve() != out)
        files += [here / name for name in sorted(names) if not name.startswith(".") and (here / name).is_file()]
    return files


def _distinct(found: Sequence[tuple[Path, tuple[Path, Path]]]) -> list[Path]:
    """A name for each file: its own without the extension and, where several would have that, one that says
    more."""
    choices = [
        (
            relative.with_suffix(""),
            relative,
            Path(file.parent.name) / relative,
            resolved.relative_to(resolved.anchor),
        )
        for resolved, (file, relative) in found
    ]
    chosen = [0] * len(choices)
    while True:
        names = [choice[which] for choice, which in zip(choices, chosen, strict=True)]
        often = Counter(names)
        if len(often) == len(names):
            return names
        for index, name in enumerate(names):
            if often[name] > 1:
                chosen[index] = min(chosen[index] + 1, len(choices[index]) - 1)
