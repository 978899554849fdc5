"""Stage `fetch` in a folder of its own, on files and images of the user's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.data.nyu import NyuWriter, pack_frame, write_splits
from pipeline.data.source import open_source
from pipeline.errors import PipelineError
from pipeline.paths import RAW
from stages import fetch

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMES, HEIGHT, WIDTH = 4, 24, 32
RANDOM = np.random.default_rng(0)
RGB_U8 = RANDOM.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
DEPTH_MM = RANDOM.integers(500, 10_000, (FRAMES, HEIGHT, WIDTH)).astype(np.uint16)


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's repository; the stage works in a copy of it, as under `dvc exp run --temp`."""
    repository, copy = tmp_path / "repository", tmp_path / "copy"
    repository.mkdir()
    copy.mkdir()
    shutil.copy(empty_store, repository / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(repository))
    monkeypatch.chdir(copy)
    return repository


def run(source: str, **section: Any) -> None:
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    content["fetch"]["source"] = source
    content["fetch"][source] |= section
    Path("params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    fetch.main()


def write_own(folder: Path, splits: dict[str, list[int]] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    with NyuWriter(folder / "own.mat", FRAMES, (HEIGHT, WIDTH)) as writer:
        for index in range(FRAMES):
            depth_m = DEPTH_MM[index].astype(np.float32) / 1000
            writer.append(pack_frame(RGB_U8[index], depth_m, depth_m), f"attic_{index:04d}", "attic")
    write_splits(folder / "splits.mat", splits or {"train": [0, 1], "test": [2, 3]})
    return folder / "own.mat"


def test_a_file_of_ones_own_is_taken_with_the_splits_beside_it(root: Path) -> None:
    labeled = write_own(root / "mine")
    before = labeled.read_bytes()
    run("file", labeled=str(labeled))
    assert (RAW / "nyu_depth_v2_labeled.mat").read_bytes() == before
    assert labeled.read_bytes() == before
    assert json.loads((RAW / "source.json").read_text(encoding="utf-8"))["source"] == "file"
    with open_source(RAW) as source:
        np.testing.assert_array_equal(source.frames.read(0, FRAMES).rgb_u8, RGB_U8)
        assert source.splits == {"train": [0, 1], "test": [2, 3]}


def test_a_relative_path_counts_from_the_repository_not_from_its_temporary_copy(root: Path) -> None:
    write_own(root / "mine")
    run("file", labeled="mine/own.mat", splits="mine/splits.mat")
    assert (RAW / "nyu_depth_v2_labeled.mat").is_file()


def test_splits_may_lie_elsewhere(root: Path) -> None:
    write_own(root / "mine")
    (root / "other.mat").write_bytes((root / "mine" / "splits.mat").read_bytes())
    (root / "mine" / "splits.mat").unlink()
    run("file", labeled="mine/own.mat", splits="other.mat")
    assert (RAW / "splits.mat").is_file()


@pytest.mark.parametrize(("gone", "key"), [("own.mat", "labeled"), ("splits.mat", "splits")])
def test_a_missing_file_is_named_with_its_parameter_in_one_line(root: Path, gone: str, key: str) -> None:
    write_own(root / "mine")
    (root / "mine" / gone).unlink()
    with pytest.raises(PipelineError, match=rf"fetch\.file\.{key}: .*{gone} does not exist") as caught:
        run("file", labeled="mine/own.mat")
    assert "\n" not in str(caught.value)
    assert not list(RAW.iterdir())


def test_splits_that_do_not_belong_to_the_file_are_refused_before_it_is_taken(root: Path) -> None:
    write_own(root / "mine", {"train": [0, 1], "test": [2, 9]})
    with pytest.raises(PipelineError, match=r"splits\.mat: test frame 10 \(from 1\) is outside 1\.\.4"):
        run("file", labeled="mine/own.mat")
    assert not list(RAW.iterdir())


def test_a_file_that_is_not_of_the_layout_is_refused(root: Path) -> None:
    labeled = write_own(root / "mine")
    labeled.write_bytes(b"no HDF5")
    with pytest.raises(PipelineError, match=r"own\.mat is not a readable MATLAB"):
        run("file", labeled="mine/own.mat")


def test_images_of_ones_own_are_listed_and_stay_where_they_are(root: Path) -> None:
    rows = ["rgb,depth,split,scene"]
    for index, split in enumerate(["train", "train", "test", "val"]):
        Image.fromarray(RGB_U8[index]).save(root / f"{index}.png")
        Image.fromarray(DEPTH_MM[index]).save(root / f"{index}_depth.png")
        rows.append(f"{index}.png,{index}_depth.png,{split},attic_{index}")
    (root / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    run("folder", list="list.csv", depth_scale=2000.0)
    assert {path.name for path in RAW.iterdir()} == {"frames.csv", "source.json"}
    with open_source(RAW) as source:
        frames = source.frames.read(0, FRAMES)
        assert source.splits == {"train": [0, 1], "val": [3], "test": [2]}
    np.testing.assert_allclose(frames.depth_m, DEPTH_MM / 2000, rtol=1e-6)


def test_a_list_for_training_and_one_for_testing_count_from_a_folder_elsewhere(root: Path) -> None:
    for index, scene in enumerate(["attic_0001_out", "attic_0001_out", "hall_0002_out", "test"]):
        folder = root / "images" / scene
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB_U8[index]).save(folder / f"{index}.jpg")
        Image.fromarray(DEPTH_MM[index]).save(folder / f"{index}.png")
    (root / "lists").mkdir()
    lines = [f"attic_0001_out/{n}.jpg,attic_0001_out/{n}.png" for n in (0, 1)]
    (root / "lists/train.csv").write_text("\n".join([*lines, "hall_0002_out/2.jpg,hall_0002_out/2.png"]))
    (root / "lists/test.csv").write_text("test/3.jpg,test/3.png")
    run("folder", list="lists/train.csv", test_list="lists/test.csv", root="images")
    with open_source(RAW) as source:
        assert source.splits == {"train": [0, 1, 2], "val": [], "test": [3]}
        assert source.frames.scenes == ["attic_0001", "attic_0001", "hall_0002", "test"]


def test_problems_of_a_list_are_kept_at_the_repositorys_root(root: Path) -> None:
    (root / "list.csv").write_text("rgb,depth,split,scene\na.png,b.png,train,x\nc.png,d.png,test,y\n")
    kept = root / ".state" / "fetch" / "problems.csv"
    with pytest.raises(PipelineError, match=rf"a\.png does not exist \(and 3 more\); {kept} lists all"):
        run("folder", list="list.csv")
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 5
    assert not list(RAW.iterdir())


def test_a_missing_list_is_named(root: Path) -> None:
    with pytest.raises(PipelineError, match=r"nowhere\.csv does not exist"):
        run("folder", list="nowhere.csv")


def write_sequence(scene: Path, frames: int) -> None:
    """A scene of black images and depths of about 1 m, 1/30 s apart."""
    scene.mkdir(parents=True)
    for frame in range(frames):
        time = f"1294886362.{frame * 33_333:06d}"
        (scene / f"r-{time}-1.ppm").write_bytes(b"P6 640 480 255\n" + bytes(640 * 480 * 3))
        (scene / f"d-{time}-2.pgm").write_bytes(b"P5 640 480 65535\n" + b"\xea\x02" * (640 * 480))
    (scene / "INDEX.txt").write_text("\n".join(path.name for path in scene.iterdir()), encoding="utf-8")


def test_raw_sequences_are_listed_and_stay_where_they_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for scene in ("attic_0001", "attic_0002", "cellar_0001"):
        write_sequence(root / "kinect" / scene, 4)
    run("nyu_raw", directory="kinect", every=2, test_fraction=0.4)
    assert {path.name for path in RAW.iterdir()} == {"pairs.csv", "source.json"}
    assert "fetch: 6 pairs (4 train, 2 test)\n" in capsys.readouterr().err
    with open_source(RAW) as source:
        frames = source.frames.read(0, 1)
        assert source.kind == "nyu_raw"
        assert {split: len(indices) for split, indices in source.splits.items()} == {"train": 4, "test": 2}
    assert frames.depth_m.max() == pytest.approx(351.3 / (1092.5 - 746), rel=0.005)


def test_rooms_of_the_labelled_test_frames_are_kept_for_testing(root: Path) -> None:
    """Those are attic_0002 and attic_0003; other recordings of these rooms are not trained on either."""
    write_own(root / "mine")
    for scene in ("attic_0001", "attic_0002", "attic_0003b", "cellar_0001"):
        write_sequence(root / "kinect" / scene, 1)
    run("nyu_raw", directory="kinect", labeled="mine/own.mat")
    with open_source(RAW) as source:
        scenes = source.frames.scenes
        assert {scenes[index] for index in source.splits["test"]} == {"attic_0002", "attic_0003"}
        assert {scenes[index] for index in source.splits["train"]} == {"attic_0001", "cellar_0001"}


def test_a_labelled_file_for_the_raw_sequences_must_exist(root: Path) -> None:
    write_sequence(root / "kinect" / "attic_0001", 1)
    with pytest.raises(PipelineError, match=r"fetch\.nyu_raw\.labeled: .*own\.mat does not exist"):
        run("nyu_raw", directory="kinect", labeled="own.mat")
    assert not list(RAW.iterdir())
