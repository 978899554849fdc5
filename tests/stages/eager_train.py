"""The train stage, saving as often as it can: `python -m tests.stages.eager_train`.

`DEPTH_STEP_S` gives every step at least so many seconds, for a training that is to be at work when a signal comes.
"""

from __future__ import annotations

import os
import time

from pipeline.errors import reported_to_user
from pipeline.training import recorder
from stages.train import main

STEP_S = float(os.environ.get("DEPTH_STEP_S", "0"))


def slowed_due(self: recorder.Recorder) -> bool:
    time.sleep(STEP_S)
    return due(self)


if __name__ == "__main__":
    recorder.INTERVAL_S = 0.0
    recorder.LARGEST_SHARE = 1e9
    due, recorder.Recorder.due = recorder.Recorder.due, slowed_due  # type: ignore[method-assign]
    with reported_to_user("train"):
        main()
