"""Stage `preprocess` on two processors, with shards of 20 frames, so that it can be interrupted between many.

DEPTH_FRAME_S: seconds that reading a frame takes at least.
"""

from __future__ import annotations

import os
import time

from pipeline.data import shards
from pipeline.data.folder import FolderReader
from pipeline.data.frames import Frames
from pipeline.errors import reported_to_user
from stages import preprocess

FRAMES = 20


def leisurely(self: FolderReader, index: int, read: object = FolderReader.read) -> Frames:
    time.sleep(float(os.environ["DEPTH_FRAME_S"]))
    return read(self, index)  # type: ignore[operator]


if __name__ in ("__main__", "__mp_main__"):  # the stage, and the processes that it starts
    FolderReader.read = leisurely  # type: ignore[method-assign, assignment]

if __name__ == "__main__":
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    shards.SHARD_BYTES = FRAMES * 32 * 64 * 5 + shards.HEADER_BYTES
    with reported_to_user("preprocess"):
        preprocess.main()
