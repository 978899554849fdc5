"""Stage `preprocess` with shards of 20 frames, so that there are many of them to be interrupted between."""

from __future__ import annotations

from pipeline.data import shards
from pipeline.errors import reported_to_user
from stages import preprocess

FRAMES = 20

if __name__ == "__main__":
    shards.SHARD_BYTES = FRAMES * 32 * 64 * 5 + shards.HEADER_BYTES
    with reported_to_user("preprocess"):
        preprocess.main()
