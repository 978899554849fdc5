"""The files that a training leaves for the stages to come."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline import paths
from pipeline.data.shards import ShardSet
from pipeline.files import written_whole
from pipeline.model.checkpoint import CheckpointInfo, save_checkpoint
from pipeline.training.history import Epoch
from pipeline.training.recorder import Reached


class OutputFiles:
    """Writes the checkpoints and the history. Each file once for what it holds: the best is often an old one."""

    def __init__(
        self,
        shards: ShardSet,
        options: Mapping[str, Any],
        run_id: str | None,
        started_from: dict[str, str | None] | None = None,
    ) -> None:
        """shards: the frames that are trained on. options: those of `build_network`. run_id: in MLflow.

        started_from: as in `CheckpointInfo`.
        """
        self._info = {
            "architecture": options["architecture"],
            "options": {key: value for key, value in options.items() if key != "architecture"},
            "input_size": shards.size,
            "border": shards.index["border"],
            "data_fingerprint": shards.index["fingerprint"],
            "trained_on": shards.index["trained_on"],
            "run_id": run_id,
            "source": shards.index["source"],
            "started_from": started_from,
        }
        self._written: dict[Path, int] = {}

    def write(self, reached: Reached) -> None:
        last_epoch = reached.history[-1].epoch
        self._save(paths.BEST_CHECKPOINT, reached.best, reached.history[reached.best_epoch - 1])
        self._save(paths.LAST_CHECKPOINT, reached.last, reached.history[-1])
        if self._written.get(paths.HISTORY) != last_epoch:
            with written_whole(paths.HISTORY) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                # All rows have the columns of the first: an epoch is validated or none is.
                table = csv.DictWriter(file, reached.history[0].row(), lineterminator="\n")
                table.writeheader()
                table.writerows(epoch.row() for epoch in reached.history)
            self._written[paths.HISTORY] = last_epoch

    def _save(self, path: Path, weights: dict[str, Tensor], epoch: Epoch) -> None:
        if self._written.get(path) != epoch.epoch:
            info = CheckpointInfo(**self._info, epoch=epoch.epoch, val_rmse=epoch.val.get("rmse"))
            save_checkpoint(path, weights, info)
            self._written[path] = epoch.epoch
