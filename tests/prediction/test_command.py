"""`depth predict`, as its user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import DepthEstimator
from pipeline.cli import main
from pipeline.prediction.pictures import colour_depth

SIZES = {"kitchen.jpg": (45, 61), "attic.png": (90, 50), "hall/stairs.png": (45, 61)}
ENDINGS = ("-depth.png", "-depth-colour.png", "-side-by-side.jpg", "-depth.json")


@pytest.fixture
def work(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network and three photographs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("models").mkdir()
    shutil.copy(checkpoint, "models/best.safetensors")
    random = np.random.default_rng(0)
    for name, size in SIZES.items():
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return tmp_path


def failure(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def written(folder: str = "depth") -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def test_every_image_of_a_folder_gets_its_map_pictures_and_facts(work: Path) -> None:
    main(["predict", "photos", "--out", "depth"])
    stems = ("kitchen", "attic", "hall/stairs")
    assert written() == {stem + ending for stem in stems for ending in ENDINGS}
    estimator = DepthEstimator(device="cpu")
    for name, (height, width) in SIZES.items():
        stem = name.partition(".")[0]
        depth_m = estimator(f"photos/{name}")
        with Image.open(f"depth/{stem}-depth.png") as depth:
            assert (depth.mode, depth.size) == ("I;16", (width, height))
            np.testing.assert_allclose(np.array(depth), 1000 * depth_m, atol=0.51)
        with Image.open(f"depth/{stem}-depth-colour.png") as colour:
            near_m, far_m = float(depth_m.min()), float(depth_m.max())
            difference = np.array(colour).astype(int) - colour_depth(depth_m, near_m, far_m)
            assert np.abs(difference).max() <= 3
        with Image.open(f"depth/{stem}-side-by-side.jpg") as both:
            assert both.width > 2 * width
            with Image.open(f"photos/{name}") as photo:
                left = np.array(both)[: height - 1, : width - 2].astype(float)
                assert np.corrcoef(left.ravel(), np.array(photo)[:-1, :-2].ravel())[0, 1] > 0.5
        facts = json.loads(Path(f"depth/{stem}-depth.json").read_text(encoding="utf-8"))
        assert (facts["image"], facts["width"], facts["height"]) == (f"photos/{name}", width, height)
        assert facts["depth"] == {
            "min": pytest.approx(near_m),
            "median": pytest.approx(float(np.median(depth_m))),
            "max": pytest.approx(far_m),
            "unit": "metre",
        }
        assert facts["depth_png"]["unit"] == "millimetre"
        assert facts["model"]["parameters"] > 0
        assert facts["seconds"]["predict"] > 0
        assert all(Path("depth", stem).with_name(file).is_file() for file in facts["files"].values())


def test_the_size_of_the_batches_changes_nothing(work: Path) -> None:
    main(["predict", "photos", "--out", "two", "--batch-size", "2"])
    main(["predict", "photos", "--out", "one", "--batch-size", "1"])
    assert written("two") == written("one")
    for name in written("one"):
        if name.endswith("-depth.png"):
            one, two = (np.array(Image.open(f"{folder}/{name}")).astype(int) for folder in ("one", "two"))
            assert np.abs(one - two).max() <= 1


def test_the_range_of_the_colours_can_be_the_same_for_all(work: Path) -> None:
    main(["predict", "photos", "--out", "depth", "--range", "0,10"])
    for name in ("kitchen", "attic"):
        depth_m = np.array(Image.open(f"depth/{name}-depth.png")) / 1000
        colours = np.array(Image.open(f"depth/{name}-depth-colour.png")).astype(int)
        assert np.abs(colours - colour_depth(depth_m.astype(np.float32), 0, 10)).max() <= 3


def test_metres_and_points_are_written_if_wanted(work: Path) -> None:
    main(["predict", "photos/kitchen.jpg", "--out", "depth", "--npy", "--ply", "--camera", "50,60,30,20"])
    depth_m = np.load("depth/kitchen-depth.npy", allow_pickle=False)
    np.testing.assert_allclose(depth_m, DepthEstimator(device="cpu")("photos/kitchen.jpg"), rtol=1e-5)
    body = Path("depth/kitchen-cloud.ply").read_bytes().partition(b"end_header\n")[2]
    vertices = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)]).reshape(45, 61)
    np.testing.assert_array_equal(vertices["rgb"], np.array(Image.open("photos/kitchen.jpg")))
    facts = json.loads(Path("depth/kitchen-depth.json").read_text(encoding="utf-8"))
    assert facts["camera"] == {"fx": 50, "fy": 60, "cx": 30, "cy": 20, "unit": "pixel", "from": "camera"}
    np.testing.assert_allclose(-vertices["xyz"][..., 2], depth_m, rtol=1e-5)
    np.testing.assert_allclose(vertices["xyz"][7, 9, 0], (9 - 30) / 50 * depth_m[7, 9], rtol=1e-5)
    np.testing.assert_allclose(vertices["xyz"][7, 9, 1], (20 - 7) / 60 * depth_m[7, 9], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "focal"),
    [([], 90 / 2 / np.tan(np.radians(63.327523) / 2)), (["--fov", "90"], 50 / 2)],
    ids=["NYU's, along the longer side", "horizontal"],
)
def test_the_camera_follows_from_the_field_of_view(work: Path, arguments: list[str], focal: float) -> None:
    main(["predict", "photos/attic.png", "--out", "depth", "--ply", *arguments])
    camera = json.loads(Path("depth/attic-depth.json").read_text(encoding="utf-8"))["camera"]
    wanted = {"fx": pytest.approx(focal), "fy": pytest.approx(focal), "cx": 24.5, "cy": 44.5, "unit": "pixel"}
    wanted["from"] = "fov" if arguments else "assumed"
    assert camera == wanted


def test_a_bad_file_is_named_and_skipped_and_the_others_are_done(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/broken.png").write_bytes(b"no image")
    assert failure("predict", "photos", "--out", "depth") == 1
    lines = capsys.readouterr().err.splitlines()
    assert any("skipped: photos/broken.png cannot be read as an image" in line for line in lines)
    assert lines[-1] == "error: depth predict: 1 of 4 could not be read: photos/broken.png"
    assert written() == {stem + ending for stem in ("kitchen", "attic", "hall/stairs") for ending in ENDINGS}


def test_a_large_image_is_reduced_in_what_is_only_looked_at(work: Path) -> None:
    Image.effect_noise((2400, 1000), 80).save("wide.jpg")
    main(["predict", "wide.jpg", "--out", "depth", "--ply"])
    with Image.open("depth/wide-depth.png") as depth, Image.open("depth/wide-side-by-side.jpg") as both:
        assert depth.size == (2400, 1000)
        assert both.height < 700
    header, _, body = Path("depth/wide-cloud.ply").read_bytes().partition(b"end_header\n")
    points = len(body) // 15
    assert f"element vertex {points}\n".encode() in header
    assert 0.99 * 2**20 < points <= 2**20


def test_the_model_of_the_repository_is_found_from_a_folder_of_it(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "dvc.yaml").touch()
    monkeypatch.chdir(work / "photos")
    main(["predict", "attic.png", "--out", "depth"])
    facts = json.loads(Path("depth/attic-depth.json").read_text(encoding="utf-8"))
    assert facts["model"]["model"] == "../models/best.safetensors"


def test_another_checkpoint_is_taken_by_its_name(work: Path) -> None:
    Path("models/best.safetensors").rename("mine.safetensors")
    main(["predict", "photos/attic.png", "--out", "depth", "--model", "mine.safetensors"])
    assert Path("depth/attic-depth.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg"], "nowhere.jpg does not exist"),
        (["photos/attic.png", "--model", "no-such-run"], "no-such-run is no file, and there is no MLflow store at"),
        (["photos/attic.png", "--out", "photos/kitchen.jpg"], "photos/kitchen.jpg is a file; name a folder"),
    ],
)
def test_what_cannot_begin_is_said_in_one_line_and_writes_nothing(
    work: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure("predict", "--out", "depth", *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not Path("depth").exists()
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--range", "5,1"],
        ["--range", "nan,2"],
        ["--fov", "180"],
        ["--camera", "1,2,3"],
        ["--camera", "0,1,2,3"],
        ["--fov", "60", "--camera", "1,2,3,4"],
        ["--device", "tpu"],
    ],
)
def test_options_out_of_range_show_the_usage(
    work: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure("predict", "photos", "--out", "depth", *arguments) == 2
    assert f"argument {arguments[-2]}" in capsys.readouterr().err
