"""`depth study` as it is typed, in DVC's real queue and over a real store."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import Any

import pytest

from pipeline.studies.running import override_text
from tests.tracking.toy import Toy, wait_until

STUDY = (sys.executable, "-m", "pipeline.cli", "study", "studies/weights.yaml")
MACHINE = ("-S", "fetch.source=file", "-S", "fetch.file.labeled=/data/of this machine, mine.mat")


def record(toy: Toy) -> list[dict[str, Any]]:
    return json.loads((toy.root / "reports/studies.json").read_text(encoding="utf-8"))["results"]


def test_each_variant_is_an_experiment_whose_result_is_recorded_and_never_run_twice(study_toy: Toy) -> None:
    toy = study_toy
    printed = toy.run(*STUDY, *MACHINE, "--jobs", "2")
    assert "0 of 2 experiments are recorded already, 2 to run" in printed
    heavy, light = record(toy)
    runs = toy.runs()
    commit = toy.run("git", "rev-parse", "HEAD").strip()
    # The toy's validation error by epoch is 1 + w, 1 + w/2 and 1 + w/3, that of the test 1 + w.
    for entry, variant, weight in ((heavy, "heavy", 0.75), (light, "light", 0.25)):
        run = runs[entry["experiment"]]
        assert (entry["study"], entry["variant"], entry["seed"]) == ("weights", variant, 7)
        assert entry["overrides"] == {"fetch.source": "nyu_v2", "train.epochs": 3, "loss.ssim_weight": weight}
        assert entry["machine"] == {"fetch.source": "file"}
        assert entry["validation"] == {
            "rmse": pytest.approx(1 + weight / 3),
            "delta1": None,
            "epoch": 3,
            "checkpoint": "best",
        }
        assert (entry["epochs"], entry["training_s"]) == (3, 4.5)
        assert entry["test"]["full"] == {"rmse": 1 + weight, "abs_rel": None, "delta1": 0.5}
        assert entry["test"]["eigen"]["rmse"] == 1 + weight
        assert (entry["git_commit"], entry["run_id"]) == (commit, run.info.run_id)
        assert (run.data.params["seed"], run.data.tags["group"]) == ("7", "weights")
        assert run.data.params["fetch.file.labeled"] == "/data/of this machine, mine.mat"
    assert "this machine" not in (toy.root / "reports/studies.json").read_text(encoding="utf-8")
    page = (toy.root / "docs/experiments.md").read_text(encoding="utf-8")
    assert "| 1.083 (n = 1) | −0.167 | 1.250 |" in page
    assert (toy.root / "docs/images/study-weights.png").is_file()

    assert "2 of 2 experiments are recorded already, 0 to run" in toy.run(*STUDY, *MACHINE)
    assert set(toy.runs()) == set(runs)

    declared = toy.root / "studies/weights.yaml"
    declared.write_text(declared.read_text(encoding="utf-8").replace("0.25", "0.5"), encoding="utf-8")
    assert "1 of 2 experiments are recorded already, 1 to run" in toy.run(*STUDY, *MACHINE)
    assert [entry["overrides"]["loss.ssim_weight"] for entry in record(toy)] == [0.75, 0.5]
    assert record(toy)[0] == heavy


def queued(toy: Toy) -> list[str]:
    """The states of what stands in DVC's queue."""
    return re.findall(r"\b(?:Queued|Running|Success|Failed)\b", toy.run("dvc", "queue", "status"))


def test_a_killed_call_is_gone_on_with(study_toy: Toy) -> None:
    toy = study_toy
    (toy.root / "pause").touch()
    process = toy.start(*STUDY, *MACHINE, start_new_session=True)
    wait_until(lambda: sorted(queued(toy)) == ["Queued", "Running"], 120, "one is at work and one waits")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (toy.root / "reports/studies.json").exists()
    (toy.root / "pause").unlink()
    toy.run(*STUDY, *MACHINE)
    assert [entry["variant"] for entry in record(toy)] == ["heavy", "light"]
    assert len(toy.all_runs()) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        (3, "3"),
        ("step", "step"),
        ("0.5", "'0.5'"),
        ("/a b/it's, [here].mat", r"'/a b/it\'s, [here].mat'"),
        (["http://a/b", "c"], "['http://a/b',c]"),
    ],
)
def test_a_value_is_written_as_hydra_reads_it_back(value: object, text: str) -> None:
    from dvc.utils.hydra import to_hydra_overrides

    assert override_text(value) == text
    (override,) = to_hydra_overrides([f"key={text}"])
    assert override.value() == value
    assert not override.is_sweep_override()
