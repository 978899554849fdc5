"""The train stage, saving as often as it can: `python -m tests.stages.eager_train`."""

from __future__ import annotations

from pipeline.errors import reported_to_user
from pipeline.training import recorder
from stages.train import main

if __name__ == "__main__":
    recorder.INTERVAL_S = 0.0
    recorder.LARGEST_SHARE = 1e9
    with reported_to_user("train"):
        main()
