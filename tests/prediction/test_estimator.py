"""`DepthEstimator`: metres at the image's own size, whatever the image is given as."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

import pipeline.prediction.estimator
from pipeline import DepthEstimator
from pipeline.errors import PipelineError
from pipeline.evaluation.predictor import network_predictor
from pipeline.model.checkpoint import load_network, read_checkpoint_info
from tests.small_network import INPUT_SIZE


@pytest.fixture(scope="module")
def estimator(checkpoint: Path) -> DepthEstimator:
    return DepthEstimator(checkpoint, device="cpu")


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def expected(checkpoint: Path, rgb_u8: np.ndarray) -> np.ndarray:
    """As the stage `evaluate` predicts, then bilinear to the image's size."""
    info = read_checkpoint_info(checkpoint)
    predict = network_predictor(load_network(checkpoint), info.input_size, info.border, torch.device("cpu"))
    depth_m = predict(torch.from_numpy(rgb_u8).permute(2, 0, 1)[None].contiguous() / 255)
    return interpolate(depth_m, rgb_u8.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()


@pytest.mark.parametrize("size", [INPUT_SIZE, (96, 128), (33, 47), (200, 50), (5, 300), (1, 1)])
def test_the_depth_of_an_array_is_that_of_the_evaluation_at_the_images_own_size(
    estimator: DepthEstimator, checkpoint: Path, size: tuple[int, int]
) -> None:
    rgb_u8 = picture(*size)
    depth_m = estimator(rgb_u8)
    assert (depth_m.shape, depth_m.dtype) == (size, np.float32)
    np.testing.assert_allclose(depth_m, expected(checkpoint, rgb_u8), rtol=1e-5)
    assert depth_m.std() > 0 or size == (1, 1)


def test_one_image_is_the_same_depth_however_it_is_given(estimator: DepthEstimator, tmp_path: Path) -> None:
    rgb_u8 = picture()
    Image.fromarray(rgb_u8).save(tmp_path / "a.png")
    planes = torch.from_numpy(rgb_u8).permute(2, 0, 1)
    with (tmp_path / "a.png").open("rb") as file:
        same: list[Any] = [
            estimator(str(tmp_path / "a.png")),
            estimator(tmp_path / "a.png"),
            estimator(file),
            estimator(Image.fromarray(rgb_u8)),
            estimator((rgb_u8 / 255).astype(np.float32)),
            estimator(rgb_u8 / 255),
            estimator((rgb_u8 / 255).astype(">f4")),
            estimator(planes),
            estimator(planes / 255),
            estimator((planes.double() / 255).requires_grad_()),
            estimator(np.asfortranarray(rgb_u8)),
        ]
    for depth_m in same:
        np.testing.assert_allclose(depth_m, estimator(rgb_u8), rtol=1e-5)


def test_grey_is_a_colour_of_three_equal_parts(estimator: DepthEstimator) -> None:
    grey_u8 = picture()[..., 0]
    depth_m = estimator(grey_u8[..., None].repeat(3, axis=2))
    for given in (grey_u8, torch.from_numpy(grey_u8), torch.from_numpy(grey_u8)[None], Image.fromarray(grey_u8)):
        np.testing.assert_allclose(estimator(given), depth_m, rtol=1e-5)


def test_a_list_of_different_images_gives_the_list_of_their_depths(checkpoint: Path) -> None:
    images: list[Any] = [picture(40 + 10 * seed, 70, seed) for seed in range(5)]
    images[3] = Image.fromarray(images[3])
    alone = DepthEstimator(checkpoint, device="cpu")
    in_pairs = DepthEstimator(checkpoint, device="cpu", batch_size=2)
    found = in_pairs(images)
    assert isinstance(found, list)
    for depth_m, image in zip(found, images, strict=True):
        np.testing.assert_allclose(depth_m, alone(image), rtol=1e-5)
    assert in_pairs([]) == []


def test_the_array_that_is_given_is_left_alone(estimator: DepthEstimator) -> None:
    rgb_u8 = picture()
    rgb_u8.flags.writeable = False
    before = rgb_u8.copy()
    estimator(rgb_u8)
    np.testing.assert_array_equal(rgb_u8, before)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 9, 3), np.int64), "the image is an array of int64; give uint8, or floats from 0 to 1"),
        (np.zeros((8, 9, 3), bool), "array of bool"),
        (np.zeros((8, 9, 3), np.uint16), "array of uint16"),
        (np.zeros((8, 9, 4), np.uint8), "array of shape (8, 9, 4); give (H, W, 3) or (H, W)"),
        (np.zeros((2, 8, 9, 3), np.uint8), "array of shape (2, 8, 9, 3)"),
        (np.zeros((3, 8, 9), np.uint8), "array of shape (3, 8, 9)"),
        (np.zeros((0, 9, 3), np.uint8), "array of shape (0, 9, 3)"),
        (np.zeros(9, np.uint8), "array of shape (9,)"),
        (np.full((8, 9, 3), 255.0), "floats from 255 to 255; give them from 0 to 1, or uint8"),
        (np.full((8, 9), -0.1), "floats from -0.1"),
        (np.full((8, 9), np.nan), "floats from nan"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), "tensor of shape (8, 9, 3); give (3, H, W)"),
        (torch.zeros(2, 3, 8, 9), "tensor of shape (2, 3, 8, 9)"),
        (torch.zeros(3, 8, 9, dtype=torch.int32), "tensor of torch.int32"),
        (5, "the image is a int; give a path"),
        ("nowhere.jpg", "nowhere.jpg cannot be read as an image"),
    ],
    ids=lambda value: str(getattr(value, "shape", value))[:24],
)
def test_what_is_no_image_is_refused_in_one_line(estimator: DepthEstimator, image: Any, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        estimator(image)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_predicts_the_same_depth(checkpoint: Path) -> None:
    rgb_u8 = picture(300, 500)
    on_cpu, on_gpu = (DepthEstimator(checkpoint, device=device)(rgb_u8) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0.01)  # TF32


def test_in_a_list_the_place_of_what_is_no_image_is_named(estimator: DepthEstimator) -> None:
    with pytest.raises(PipelineError, match="image 2 of 3 is an array of int64"):
        estimator([picture(), picture().astype(np.int64), picture()])


def test_a_device_or_batch_that_does_not_exist_is_refused(checkpoint: Path) -> None:
    with pytest.raises(PipelineError, match="no device 'tpu'"):
        DepthEstimator(checkpoint, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(PipelineError, match="no CUDA device; choose auto or cpu"):
            DepthEstimator(checkpoint, device="cuda")
    with pytest.raises(PipelineError, match="batch size of 1 or more"):
        DepthEstimator(checkpoint, batch_size=0)


def test_the_facts_of_the_model_are_those_of_its_file(estimator: DepthEstimator, checkpoint: Path) -> None:
    facts = estimator.facts
    assert facts["model"] == str(checkpoint)
    assert facts["input_size"] == list(INPUT_SIZE)
    assert facts["parameters"] == sum(weight.numel() for weight in load_network(checkpoint).parameters())
    assert (facts["epoch"], facts["val_rmse_m"], facts["mlflow_run_id"]) == (7, 0.5, "0" * 32)
    digest = subprocess.run(["sha256sum", checkpoint], capture_output=True, text=True).stdout.split()[0]
    assert facts["sha256"] == digest


def test_the_example_of_the_docstring_is_right(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/best.safetensors").write_bytes(checkpoint.read_bytes())
    Image.fromarray(picture(48, 64)).save("photo.jpg")
    (example,) = (
        test
        for test in doctest.DocTestFinder(recurse=False).find(DepthEstimator, globs={"np": np})
        if test.examples
    )
    assert len(example.examples) == 5
    outcome = doctest.DocTestRunner().run(example)
    assert outcome.failed == 0
    assert DepthEstimator is pipeline.prediction.estimator.DepthEstimator


def test_to_import_the_package_costs_no_torch() -> None:
    code = "import sys, pipeline; assert 'torch' not in sys.modules; assert 'DepthEstimator' in pipeline.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)
