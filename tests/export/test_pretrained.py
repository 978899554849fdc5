"""`make pretrained`: weights, facts and card of a finished training; and those that are committed."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline import DepthEstimator, paths
from pipeline.data.nyu import NyuFile
from pipeline.data.rooms import render_rooms
from pipeline.data.shards import write_shards
from pipeline.data.source import describe_source, open_source
from pipeline.errors import PipelineError
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.export.pretrained import card, keep_pretrained
from pipeline.files import write_json
from pipeline.model.checkpoint import load_network, read_checkpoint_info
from pipeline.params import load_params
from stages.evaluate import score
from tests.small_network import save_small_network

REPOSITORY = Path(__file__).resolve().parents[2]
COMMITTED = REPOSITORY / paths.PRETRAINED
KEPT = (paths.PRETRAINED, paths.PRETRAINED_FACTS, paths.PRETRAINED_CARD)
CHANGED = {
    "seed": 3,
    "fetch": {"source": "file", "file": {"labeled": "/home/ann/data/nyu_depth_v2_labeled.mat", "splits": None}},
    "train": {"epochs": 9, "learning_rate": 0.0005, "device": "cpu"},
    "network": {"width": 4},
}
OVERRIDES = [
    "-S fetch.file.labeled=/path/to/nyu_depth_v2_labeled.mat",
    "-S fetch.source=file",
    "-S network.width=4",
    "-S seed=3",
    "-S train.epochs=9",
    "-S train.learning_rate=0.0005",
]
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.com")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fetch and preprocess leave of six rendered frames, which pass as a file of one's own."""
    root = tmp_path_factory.mktemp("frames")
    raw, splits = root / paths.RAW_MAT, root / paths.RAW_SPLITS
    raw.parent.mkdir(parents=True)
    render_rooms(
        raw, splits, frames=6, frames_per_scene=2, test_fraction=0.34, seed=5, height=60, width=80, workers=1
    )
    describe_source(root / paths.RAW_SOURCE, "file")
    with open_source(raw.parent) as source:
        train, facts = source.splits["train"], {"source": "file", "trained_on": "official train split"}
        write_shards(
            source.frames,
            {"train": train[:2], "val": train[2:], "test": source.splits["test"]},
            root / paths.SHARDS,
            size=(48, 64),
            border=2,
            augmentation=None,
            copies=0,
            seed=0,
            facts=facts,
        )
    return root


@pytest.fixture
def trained(frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which a training of those frames has finished."""
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "data").symlink_to(frames / "data")
    default = (REPOSITORY / paths.PARAMS).read_text(encoding="utf-8")
    paths.PARAMS.write_text(default, encoding="utf-8")
    for command in (["init", "-q"], ["add", "params.yaml"], [*IDENTITY, "commit", "-qm", "parameters"]):
        subprocess.run(["git", *command], check=True)
    params = yaml.safe_load(default)
    for name, value in CHANGED.items():
        params[name] = params[name] | value if isinstance(value, dict) else value
    paths.PARAMS.write_text(yaml.safe_dump(params), encoding="utf-8")
    train(tmp_path)
    return tmp_path


def train(root: Path, **facts: Any) -> None:
    """A checkpoint with its scores, as the stages and DVC leave them. facts: of the checkpoint."""
    index = json.loads(paths.SHARDS_INDEX.read_text(encoding="utf-8"))
    facts = {"source": "file", "data_fingerprint": index["fingerprint"]} | facts
    save_small_network(root / paths.BEST_CHECKPOINT, **facts)
    environment = {"device": "cuda:0", "processor": "Ten Cores", "torch": "2.9.0", "host": "secret"}
    write_json(paths.RUN, {"run_id": "0" * 32, "environment": environment})
    score(load_params().evaluate, torch.device("cpu"))
    lock()


def lock() -> None:
    """dvc.lock as DVC writes it of the two stages, and of two that have no files that matter here."""
    params = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))

    def noted(*files: Path) -> list[dict[str, str]]:
        return [
            {"path": file.as_posix(), "md5": hashlib.md5((Path.cwd() / file).read_bytes()).hexdigest()}
            for file in files
        ]

    def of(*sections: str) -> dict[str, Any]:
        return {"params.yaml": {name: params[name] for name in sections} | {"tracking.log_every_steps": 10}}

    stages = {
        "fetch": {"params": of("fetch")},
        "preprocess": {"params": of("seed", "preprocess", "augment")},
        "train": {
            "params": of("seed", "augment", "network", "loss", "train"),
            "outs": noted(paths.BEST_CHECKPOINT, paths.RUN),
        },
        "evaluate": {
            "params": of("evaluate"),
            "deps": noted(paths.BEST_CHECKPOINT, paths.RUN),
            "outs": noted(paths.METRICS),
        },
    }
    paths.LOCK.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}), encoding="utf-8")


def test_the_weights_are_copied_as_they_are_and_used_where_nothing_was_trained(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = keep_pretrained()
    before = paths.BEST_CHECKPOINT.read_bytes()
    assert paths.PRETRAINED.read_bytes() == before
    assert facts["sha256"] == hashlib.sha256(before).hexdigest()
    paths.BEST_CHECKPOINT.unlink()
    paths.LOCK.unlink()
    capsys.readouterr()
    assert DepthEstimator(device="cpu").facts["sha256"] == facts["sha256"]
    assert capsys.readouterr().err == (
        "nothing was trained here yet; using models/pretrained/nyu-0.5M.safetensors, trained on NYU Depth v2\n"
    )


def test_the_facts_hold_the_figures_of_predictions_without_flips(trained: Path) -> None:
    keep_pretrained()
    facts = json.loads(paths.PRETRAINED_FACTS.read_text(encoding="utf-8"))
    estimator = DepthEstimator(paths.PRETRAINED, device="cpu")
    with open_source(paths.RAW) as source:
        first, second = source.splits["test"]
        assert second == first + 1
        of_test = source.frames.read(first, second + 1)
    found = [
        (row["protocol"], row["averaged"], row["flips_averaged"], row["rmse"], row["abs_rel"], row["delta1"])
        for row in facts["figures"]
    ]
    ways = [("full", "per image", False), ("eigen", "per image", False)]
    ways += [("densedepth", "pooled", False), ("densedepth", "pooled", True)]
    for row, way in zip(found, ways, strict=True):
        wanted = (*way, *figures(estimator, of_test, *way))
        assert row[:3] == wanted[:3]
        assert row[3:] == pytest.approx(wanted[3:], rel=1e-4)
    assert facts["test"] | {"frames_sha256": ""} == {
        "split": "test",
        "frames": 2,
        "frames_sha256": "",
        "height": 60,
        "width": 80,
        "raw_depth_is_filled": False,
    }
    assert (facts["train_frames"], facts["validation_frames"], facts["seed"]) == (2, 2, 3)
    assert (facts["epochs"], facts["epoch"], facts["device"], facts["torch"]) == (9, 7, "cuda", "2.9.0")
    assert facts["parameters"] == sum(weight.numel() for weight in load_network(paths.PRETRAINED).parameters())
    assert facts["mean_map"][0]["rmse"] > 0


def figures(estimator: DepthEstimator, of_test: Any, name: str, averaged: str, flips: bool) -> list[float]:
    """RMSE, AbsRel and δ1 by their formulas in float64."""
    protocol = PROTOCOLS[name]
    errors = []
    for rgb_u8, filled_m, raw_m in zip(*of_test, strict=True):
        predicted_m = np.float64(estimator(rgb_u8))
        if flips:
            predicted_m = (predicted_m + estimator(np.ascontiguousarray(rgb_u8[:, ::-1]))[:, ::-1]) / 2
        truth_m = np.float64(filled_m if protocol.depth == "filled" else raw_m)
        region = protocol.region(*truth_m.shape)
        p, g = predicted_m[region.rows, region.columns], truth_m[region.rows, region.columns]
        valid = (g > protocol.valid_m[0]) & (g < protocol.valid_m[1])
        p, g = p.clip(*protocol.clip_m)[valid], g[valid]
        errors.append(np.stack([(p - g) ** 2, abs(p - g) / g, np.maximum(p / g, g / p) < 1.25]))
    if averaged == "pooled":
        errors = [np.concatenate(errors, axis=1)]
    means = [error.mean(axis=1) for error in errors]
    return [
        float(np.mean([np.sqrt(mean[0]) for mean in means])),
        *(float(np.mean([mean[place] for mean in means])) for place in (1, 2)),
    ]


def test_the_command_names_what_differs_from_the_commit_and_nothing_of_this_machine(trained: Path) -> None:
    facts = keep_pretrained()
    assert facts["command"] == " ".join(["dvc exp run", *OVERRIDES])
    told = paths.PRETRAINED_FACTS.read_text(encoding="utf-8") + paths.PRETRAINED_CARD.read_text(encoding="utf-8")
    assert not any(secret in told for secret in ("ann", str(trained), "secret", "Ten Cores\n"))
    assert facts["params"]["train.epochs"] == 9
    assert not any(name.startswith("fetch.rooms") for name in facts["params"])
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", *IDENTITY, "commit", "-qm", "as trained"], check=True)
    assert keep_pretrained()["command"] == "dvc repro"


def test_weights_that_the_training_began_with_are_told_and_their_path_kept_inside_the_repository(
    trained: Path,
) -> None:
    assert "began with | random weights |" in card(keep_pretrained())
    begin_with("models/pretrained/rooms.safetensors", source="rooms")
    facts = keep_pretrained()
    text = paths.PRETRAINED_CARD.read_text(encoding="utf-8")
    assert facts["command"].endswith("-S train.start_from=models/pretrained/rooms.safetensors")
    assert "began with | `rooms.safetensors`, trained on rendered rooms (sha256 `" in text
    assert "Of the weights that it began with: Rendered by this project's own code" in text
    begin_with(f"{trained}/all.safetensors", trained_on="all frames, the test frames included")
    with pytest.raises(PipelineError, match=r"all.safetensors was trained on all frames, the test frames included"):
        keep_pretrained()


def begin_with(path: str, **facts: Any) -> None:
    """Note in dvc.lock that the training began with weights of these facts."""
    save_small_network(Path(path), **facts)
    params = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
    params["train"]["start_from"] = path
    paths.PARAMS.write_text(yaml.safe_dump(params), encoding="utf-8")
    lock()


def test_parameters_are_those_of_the_training_not_those_of_today(trained: Path) -> None:
    paths.PARAMS.write_text(paths.PARAMS.read_text(encoding="utf-8").replace("epochs: 9", "epochs: 500"))
    assert keep_pretrained()["epochs"] == 9


def test_the_card_tells_the_figures_the_command_and_the_terms(trained: Path) -> None:
    facts = keep_pretrained()
    text = paths.PRETRAINED_CARD.read_text(encoding="utf-8")
    assert text == card(json.loads(paths.PRETRAINED_FACTS.read_text(encoding="utf-8")))
    full, eigen, single, averaged = facts["figures"]
    for row, flips in ((full, "no"), (eigen, "no"), (single, "no"), (averaged, "yes")):
        figures = f"{row['rmse']:.3f} | {row['abs_rel']:.3f} | {row['delta1']:.3f}"
        assert f"`{row['protocol']}` | {row['averaged']} | {flips} | {figures} |" in text
    assert "2 of the 654 frames of the official test split, scored at 60 x 80" in text
    assert "NYU Depth v2 (Silberman et al., ECCV 2012) is research data under its own terms" in text
    assert all(override in text for override in OVERRIDES)
    assert "in-painted" not in text  # rendered frames have a sensor's holes
    assert "in-painted" in card(facts | {"test": facts["test"] | {"raw_depth_is_filled": True}})


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"source": "rooms"}, "was trained with fetch.source rooms; nyu-0.5M.safetensors is for weights of NYU"),
        ({"source": None}, "was trained with fetch.source None"),
        ({"trained_on": "all frames, the test frames included"}, "its test figures say nothing"),
        (
            {"options": {"width": 20, "max_depth_m": 10.0, "attention": 1}},
            "at most 500,000 in 2.5 MB are kept in git",
        ),
        ({"run_id": "/home/ann/mlruns/1"}, "a path of this machine in its run_id"),
        ({"data_fingerprint": "other"}, "holds other frames than those trained on"),
    ],
)
def test_weights_that_are_not_fit_for_it_are_refused_and_nothing_is_written(
    trained: Path, facts: dict[str, Any], said: str
) -> None:
    train(trained, **facts)
    with pytest.raises(PipelineError, match=said) as refused:
        keep_pretrained()
    assert "\n" not in str(refused.value)
    assert not paths.PRETRAINED.parent.exists()


def test_figures_of_other_weights_are_refused(trained: Path) -> None:
    save_small_network(paths.BEST_CHECKPOINT, seed=1, source="file")
    with pytest.raises(PipelineError, match=r"models/best.safetensors is not the one that dvc.lock notes"):
        keep_pretrained()
    lock()
    noted = yaml.safe_load(paths.LOCK.read_text(encoding="utf-8"))
    noted["stages"]["evaluate"]["deps"][0]["md5"] = "0" * 32
    paths.LOCK.write_text(yaml.safe_dump(noted), encoding="utf-8")
    with pytest.raises(PipelineError, match=r"run `dvc repro` \(or `dvc exp run`\) to the end first"):
        keep_pretrained()
    train(trained)
    paths.METRICS.write_text("{}")
    with pytest.raises(PipelineError, match=r"reports/evaluate/metrics.json is not the one"):
        keep_pretrained()
    paths.LOCK.unlink()
    with pytest.raises(PipelineError, match=r"dvc.lock does not exist here"):
        keep_pretrained()
    assert not paths.PRETRAINED.parent.exists()


def test_git_takes_what_is_pretrained_and_no_stage_deletes_it() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", paths.BEST_CHECKPOINT, paths.LAST_CHECKPOINT, *KEPT],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if ignored.returncode > 1:
        pytest.skip("this copy of the repository has no .git to ask")
    assert ignored.stdout.split() == ["models/best.safetensors", "models/last.safetensors"]
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    deleted = {
        Path(out if isinstance(out, str) else next(iter(out)))
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    }
    assert not deleted & {
        paths.PRETRAINED,
        paths.PRETRAINED_FACTS,
        paths.PRETRAINED_CARD,
        *paths.PRETRAINED.parents,
    }


# The weights that are committed ----------------------------------------------------------------------------


def test_the_committed_weights_are_small_and_say_what_they_are() -> None:
    assert COMMITTED.stat().st_size <= 2_500_000
    assert sum(weight.numel() for weight in load_network(COMMITTED).parameters()) <= 500_000
    info = read_checkpoint_info(COMMITTED)
    assert info.trained_on == "official train split"
    assert info.source in ("nyu_v2", "file")


def test_the_committed_card_and_facts_are_of_the_committed_weights() -> None:
    facts = json.loads((REPOSITORY / paths.PRETRAINED_FACTS).read_text(encoding="utf-8"))
    assert facts["sha256"] == hashlib.sha256(COMMITTED.read_bytes()).hexdigest()
    info = read_checkpoint_info(COMMITTED)
    for name in ("epoch", "options", "trained_on", "val_rmse"):
        assert facts["val_rmse_m" if name == "val_rmse" else name] == getattr(info, name)
    assert (REPOSITORY / paths.PRETRAINED_CARD).read_text(encoding="utf-8") == card(facts)


def test_the_committed_weights_see_near_and_far_in_a_rendered_room(frames: Path) -> None:
    with NyuFile(frames / paths.RAW_MAT) as source:
        rgb_u8 = source.read(0, 1).rgb_u8[0]
    estimator = DepthEstimator(COMMITTED, device="cpu")
    depth_m = estimator(Image.fromarray(rgb_u8).resize((640, 480)))
    assert depth_m.shape == (480, 640)
    assert np.isfinite(depth_m).all()
    assert 0 < depth_m.min() < depth_m.max() <= estimator.facts["max_depth_m"]
    assert depth_m.std() > 0.1


REAL_FRAMES = REPOSITORY.parent / "shared" / "nyu"


@pytest.mark.skipif(not REAL_FRAMES.is_dir(), reason="needs the real NYU Depth v2 frames of ../shared/nyu")
def test_the_committed_weights_are_better_on_real_frames_than_the_best_constant() -> None:
    """On ten frames of the test split, of which the constant knows the truth."""
    lines = (REAL_FRAMES / "index.csv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    rows = [row for row in rows if row["split"] == "test"][::21][:10]
    estimator = DepthEstimator(COMMITTED, device="cpu")
    truths_m, predictions_m = [], []
    for row in rows:
        name = f"{int(row['frame']):05d}"
        with Image.open(REAL_FRAMES / f"depth8/{name}.png") as depth:
            truths_m.append(np.array(depth) / 255 * float(row["max_depth_m"]))
        predictions_m.append(estimator(REAL_FRAMES / f"rgb/{name}.jpg"))
    truth_m, predicted_m = np.stack(truths_m), np.stack(predictions_m)

    def rmse_m(found_m: np.ndarray) -> float:
        return float(np.sqrt(((found_m - truth_m) ** 2).mean(axis=(1, 2))).mean())

    assert rmse_m(predicted_m) < 0.9 * min(rmse_m(np.array(metres)) for metres in np.arange(1, 5, 0.1))
