"""`depth bench`: that it runs and says what it found. How fast anything is, no test can tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import evaluate, rooms
from benchmarks.entries import Entry, environment_of, save, table
from benchmarks.peers import PEERS, PUBLISHED_PARAMETERS_M
from pipeline.errors import PipelineError
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.model.network import count_parameters

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = {"processor": "abacus"}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "bench", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)


def test_what_logging_costs_is_measured_over_both_kinds_of_store_and_written_with_its_limits(
    tmp_path: Path,
) -> None:
    results = REPOSITORY / "reports" / "benchmarks.json"
    before = results.read_bytes() if results.is_file() else None
    done = bench("tracking", "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    }
    assert set(rows) == {"tracking.sqlite", "tracking.sqlite.ratio", "tracking.http", "tracking.http.ratio"}
    assert [
        (rows[f"tracking.{kind}"]["limit"], rows[f"tracking.{kind}"]["unit"]) for kind in ("sqlite", "http")
    ] == [
        (1.0, "%"),
        (2.0, "%"),
    ]
    for row in rows.values():
        assert row["value"] > 0
        assert row["against"]
        assert row["date"].endswith("+00:00")
        assert {"torch", "mlflow", "processor", "cores"} <= set(row["environment"])
        assert row["name"] in done.stdout
    for kind in ("sqlite", "http"):
        row = rows[f"tracking.{kind}"]
        parts = {name: value for name, value in row["details"].items() if name.startswith("share_")}
        assert row["value"] == pytest.approx(sum(parts.values()))
        assert len(parts) == 4
        assert all(value > 0 for value in parts.values()), "a cost of nothing was not measured"
    assert (results.read_bytes() if results.is_file() else None) == before, "smallest sizes are no results"


def test_training_from_batches_is_measured_against_training_from_image_files(tmp_path: Path) -> None:
    done = bench("loader", "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    assert (row["name"], row["better"]) == ("loader", "higher")
    assert row["limit"] == {"cpu": 1.5, "cuda": 5.0}[row["device"]]
    details = row["details"]
    assert row["value"] == pytest.approx(details["batches_frames_per_s"] / details["files_frames_per_s"])
    assert details["streamed_frames_per_s"] > 0
    assert min(details["jpg_kb"], details["png_kb"]) > 0


def test_ssim_is_measured_against_three_packages_with_its_errors(tmp_path: Path) -> None:
    for module in ("kornia", "pytorch_msssim", "torchmetrics"):
        pytest.importorskip(module, reason=f"{module} is not installed: see requirements-benchmark.lock")
    done = bench("ssim", "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = {
        (row["name"], row["device"]): row
        for row in json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    }
    ratio = rows["ssim", "cpu"]
    assert (ratio["limit"], ratio["better"]) == (10.0, "higher")
    packages = {name: ms for name, ms in ratio["details"]["ms"].items() if name != "ours"}
    assert set(packages) == set(ratio["details"]["versions"]) == {"kornia", "pytorch-msssim", "torchmetrics"}
    assert ratio["value"] == pytest.approx(min(packages.values()) / ratio["details"]["ms"]["ours"])
    for name in ("ssim.value_error", "ssim.gradient_error"):
        assert (rows[name, "cpu"]["limit"], rows[name, "cpu"]["unit"]) == (10.0, "ppm")
        assert 0 < rows[name, "cpu"]["value"] < 10


def test_memory_is_measured_with_the_frames_kept_and_streamed_and_for_two_numbers_of_them(tmp_path: Path) -> None:
    done = bench("memory", "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    }
    assert {name: row["limit"] for name, row in rows.items()} == {"memory.streaming": 2.0, "memory.resident": 1.05}
    for row in rows.values():
        peaks_mb = [row["details"][f"{kind}_{n}x_mb"] for kind in ("streaming", "resident") for n in (1, 4)]
        assert all(50 < peak_mb < 5000 for peak_mb in peaks_mb), "PyTorch alone takes more than 50 MB"
    details = rows["memory.streaming"]["details"]
    growth = details["streaming_4x_mb"] / details["streaming_1x_mb"] - 1
    assert rows["memory.streaming"]["value"] == pytest.approx(100 * growth)


def test_scoring_is_measured_against_the_evaluator_of_bts_which_finds_the_same_figures(tmp_path: Path) -> None:
    done = bench("evaluate", "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    }
    ratio, error = rows["evaluate"], rows["evaluate.error"]
    assert (ratio["limit"], ratio["better"], error["limit"]) == (10.0, "higher", 1.0)
    details = ratio["details"]
    assert set(details["ratio"]) == {"full", "eigen", "densedepth"}
    assert ratio["value"] == pytest.approx(details["peer_ms_a_frame"]["all"] / details["ms_a_frame"]["all"])
    assert details["ratio_of_processor_time"] == pytest.approx(
        details["peer_processor_ms_a_frame"] / details["processor_ms_a_frame"]
    )
    assert 0 < error["value"] < 1
    assert details["difference_from_peer_ppm"] < 1, "in float32, as published"


def test_the_protocol_that_averages_flips_scores_a_prediction_of_its_own_on_both_sides() -> None:
    block = evaluate._block(2)
    other = block._replace(averaged_m=block.prediction_m)
    for name, protocol in PROTOCOLS.items():
        ours = [evaluate._ours(maps, (name,), torch.device("cpu"))[name]["rmse"] for maps in (block, other)]
        peer = [evaluate.bts_errors(maps, protocol)["rmse"] for maps in (block, other)]
        assert (ours[0] != ours[1]) == (peer[0] != peer[1]) == protocol.flip_averaging
        assert ours == pytest.approx(peer, rel=1e-6)


@pytest.mark.parametrize("name", PEERS)
def test_peers_have_the_size_that_their_papers_tell_and_return_a_map_of_the_images_size(name: str) -> None:
    peer = PEERS[name]().eval()
    assert count_parameters(peer) / 1e6 == pytest.approx(PUBLISHED_PARAMETERS_M[name], abs=0.05)
    with torch.inference_mode():
        assert peer(torch.rand(1, 3, 240, 320)).shape == (1, 1, 240, 320)


def test_prediction_is_measured_against_a_peer_in_the_same_runtimes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: see requirements-export.lock")
    done = bench("predict", "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    }
    assert set(rows) == {"predict.latency", "predict.throughput"}
    for row in rows.values():
        assert (row["limit"], row["unit"], row["better"]) == (2.0, "x", "higher")
        details = row["details"]
        assert {*details["ms"], *details["missing"]} == {"eager", "compiled", "onnxruntime"}
        best = {name: min(ms[name] for ms in details["ms"].values()) for name in ("ours", "FastDepth")}
        assert row["value"] == pytest.approx(best["FastDepth"] / best["ours"]), "one round, so its quotient"


def test_reading_and_preprocessing_are_measured_against_h5py_and_against_inflating_alone(tmp_path: Path) -> None:
    done = bench("data", "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    }
    if "data.rooms" not in rows:
        assert "run this in a whole clone" in done.stderr
    else:
        assert rows["data.rooms"]["details"]["first_frames_per_s"] > 0
        assert (rows["data.rooms"]["limit"], rows["data.rooms"]["better"]) == (2.0, "higher")
    assert {name: (row["limit"], row["better"]) for name, row in rows.items() if name != "data.rooms"} == {
        "data.read": (2.2, "higher"),
        "data.read.frames": (7.0, "higher"),
        "data.preprocess": (1.4, "lower"),
        "data.preprocess.work": (None, "lower"),
        "data.memory": (700.0, "lower"),
        "data.memory.growth": (5.0, "lower"),
    }
    for name in ("data.read", "data.read.frames", "data.preprocess", "data.preprocess.work"):
        assert 0 < rows[name]["value"] < 1000
        assert "frames" in rows[name]["against"]
    peaks_mb = rows["data.memory.growth"]["details"]["peaks_mb"]
    assert all(50 < peak_mb < 5000 for peak_mb in peaks_mb.values()), "PyTorch alone takes more than 50 MB"
    assert rows["data.memory"]["value"] == max(peaks_mb.values())


def test_a_clone_without_the_first_version_of_the_rooms_is_told_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "clone", "-q", "--depth=1", REPOSITORY.as_uri(), tmp_path / "shallow"], check=True)
    monkeypatch.setattr("pipeline.paths.repository_root", lambda: tmp_path / "shallow")
    with pytest.raises(
        PipelineError, match=r"first version .* is not in the history .*; run this in a whole clone"
    ):
        rooms.measure(quick=True)


def test_preprocessing_of_folders_is_measured_with_all_its_processes(tmp_path: Path) -> None:
    done = bench("folder", "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    }
    assert {name: row["limit"] for name, row in rows.items()} == {"folder.memory": 5.0, "folder.frames": None}
    details = rows["folder.memory"]["details"]
    few_mb, many_mb = details["peak_mb_60"], details["peak_mb_240"]
    assert min(few_mb, many_mb) > 200, "two processes and the one that starts them have PyTorch"
    assert rows["folder.memory"]["value"] == pytest.approx(100 * (many_mb / few_mb - 1))
    assert all(details[name] > 0 for name in details)


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    done = bench("trakcing")
    assert done.returncode == 2
    assert "there is no benchmark 'trakcing'; there is data, tracking" in done.stderr


@pytest.mark.parametrize(
    ("better", "value", "limit", "reached"),
    [
        ("lower", 0.9, 1.0, True),
        ("lower", 1.1, 1.0, False),
        ("higher", 12.0, 10.0, True),
        ("higher", 9.0, 10.0, False),
        ("lower", 5.0, None, None),
    ],
)
def test_a_limit_is_reached_from_the_better_side(
    better: str, value: float, limit: float | None, reached: bool | None
) -> None:
    entry = Entry("a", value, "x", "peer", limit, "lower" if better == "lower" else "higher")
    assert entry.reached is reached
    assert ("MISSED" in table([entry])) == (reached is False)


def test_a_second_measurement_replaces_the_first_and_leaves_other_names_and_devices(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    save([Entry("ssim", 1.0, "x", "peer"), Entry("step", 2.0, "x", "limit")], ENVIRONMENT, path)
    save([Entry("ssim", 3.0, "x", "peer", device="cuda")], ENVIRONMENT, path)
    save([Entry("ssim", 4.0, "x", "peer")], ENVIRONMENT, path)
    rows = json.loads(path.read_text(encoding="utf-8"))["entries"]
    assert {(row["name"], row["device"]): row["value"] for row in rows} == {
        ("ssim", "cpu"): 4.0,
        ("ssim", "cuda"): 3.0,
        ("step", "cpu"): 2.0,
    }


def test_the_name_of_the_host_is_not_published() -> None:
    assert "host" not in environment_of("cpu")


@pytest.mark.parametrize(("subject", "name", "limit"), [("step", "step.32x64", 97.0), ("start", "start", 4.0)])
def test_loop_and_start_are_measured_with_the_stage_itself(
    tmp_path: Path, subject: str, name: str, limit: float
) -> None:
    done = bench(subject, "--quick", "--out", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["entries"]
    assert (row["name"], row["limit"]) == (name, limit) or row["device"] == "cuda"
    assert 0 < row["value"] < 1000
