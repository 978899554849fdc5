"""What a training tells of each epoch: a row of history.csv, and metrics under the names that MLflow shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Epoch:
    """One row of the history. Validation values are absent when there are no validation frames."""

    epoch: int
    """1 for the first"""
    step: int
    """how many steps were made by its end"""
    seconds: float
    learning_rate: float
    frames_per_s: float
    train_loss: dict[str, float]
    val_loss: dict[str, float] = field(default_factory=dict)
    val: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_row(cls, row: Mapping[str, float]) -> Epoch:
        """The epoch that `row` was made from; values that are NaN are absent."""

        def group(prefix: str) -> dict[str, float]:
            return {
                key.removeprefix(prefix): value
                for key, value in row.items()
                if key.startswith(prefix) and not math.isnan(value)
            }

        val_loss = group("val_loss_")
        return cls(
            int(row["epoch"]),
            int(row.get("step", row["epoch"])),  # older files count epochs only
            row["seconds"],
            row["learning_rate"],
            row["frames_per_s"],
            group("train_loss_"),
            val_loss,
            {key: value for key, value in group("val_").items() if not key.startswith("loss_")},
        )

    def row(self) -> dict[str, float]:
        """As a flat row of history.csv."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "learning_rate": self.learning_rate,
            "frames_per_s": self.frames_per_s,
            **{f"train_loss_{name}": value for name, value in self.train_loss.items()},
            **{f"val_loss_{name}": value for name, value in self.val_loss.items()},
            **{f"val_{name}": value for name, value in self.val.items()},
        }

    def metrics(self) -> dict[str, float]:
        """Under the names that MLflow shows."""
        return {
            "train/learning_rate": self.learning_rate,
            "train/frames_per_s": self.frames_per_s,
            **{f"train/epoch_loss/{name}": value for name, value in self.train_loss.items()},
            **{f"val/loss/{name}": value for name, value in self.val_loss.items()},
            **{f"val/{name}": value for name, value in self.val.items()},
        }
