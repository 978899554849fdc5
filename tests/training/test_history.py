"""An epoch's figures as a row of history.csv and back."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.training.history import Epoch

LOSSES = {"total": 0.5, "mse": 0.75, "ssim": 0.25}
VALIDATED = Epoch(2, 72, 3.5, 1e-4, 110.0, LOSSES, {"total": 0.6}, {"rmse": 0.9, "delta1": 0.5})
UNVALIDATED = Epoch(1, 36, 3.5, 1e-4, 110.0, LOSSES)


@pytest.mark.parametrize("epoch", [VALIDATED, UNVALIDATED], ids=["validated", "without validation"])
def test_a_row_makes_the_epoch_again(epoch: Epoch, tmp_path: Path) -> None:
    pd.DataFrame([epoch.row()]).to_csv(tmp_path / "history.csv", index=False)
    (row,) = pd.read_csv(tmp_path / "history.csv").to_dict("records")
    assert Epoch.of_row({str(key): value for key, value in row.items()}) == epoch


def test_metrics_have_the_names_that_others_rely_on() -> None:
    assert VALIDATED.metrics() == {
        "train/learning_rate": 1e-4,
        "train/frames_per_s": 110.0,
        "train/epoch_loss/total": 0.5,
        "train/epoch_loss/mse": 0.75,
        "train/epoch_loss/ssim": 0.25,
        "val/loss/total": 0.6,
        "val/rmse": 0.9,
        "val/delta1": 0.5,
    }
