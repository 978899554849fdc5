"""Opens what the fetch stage left in data/raw, whichever source it came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths
from pipeline.data.folder import FolderFrames
from pipeline.data.frames import FrameSource
from pipeline.data.nyu import NyuFile, read_splits
from pipeline.data.raw_sequences import RawSequences
from pipeline.errors import PipelineError
from pipeline.files import read_json, write_json


@dataclass(frozen=True)
class OpenSource:
    kind: str
    """`rooms`, `nyu_v2`, `file`, `folder` or `nyu_raw`"""
    frames: FrameSource
    splits: dict[str, list[int]]
    """0-based frame indices of `train`, `test` and, where the source says so itself, `val`"""


def describe_source(path: Path, kind: str) -> None:
    """Write the note by which `open_source` knows what lies beside it."""
    write_json(path, {"source": kind})


@contextmanager
def open_source(raw: Path, *, raw_depth: bool = True, stored_order: bool = False) -> Iterator[OpenSource]:
    """Open the frames in the folder `raw`. Raises `PipelineError` if the fetch stage has not filled it.

    `raw_depth` and `stored_order` save a `NyuFile` unwanted work; a folder of images has none to save.
    """
    note_path = raw / paths.RAW_SOURCE.name
    if not note_path.is_file():
        raise PipelineError(f"{note_path} does not exist; run the fetch stage first")
    note = read_json(note_path)
    if note["source"] == "folder":
        with FolderFrames(raw / paths.RAW_FOLDER_LIST.name) as folder:
            yield OpenSource("folder", folder, folder.splits)
    elif note["source"] == "nyu_raw":
        with RawSequences(raw / paths.RAW_PAIRS.name) as sequences:
            yield OpenSource("nyu_raw", sequences, sequences.splits)
    else:
        with NyuFile(raw / paths.RAW_MAT.name, raw_depth=raw_depth, stored_order=stored_order) as file:
            splits = read_splits(raw / paths.RAW_SPLITS.name, len(file), file.scenes)
            yield OpenSource(note["source"], file, splits)
