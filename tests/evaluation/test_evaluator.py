"""One pass over the test frames against the protocols run on their own, and the choice of examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from torch import Tensor

from pipeline.data.frames import Frames
from pipeline.evaluation.evaluator import (
    EXAMPLE_SIZE,
    Evaluation,
    choose_examples,
    evaluate_on_source,
    example_tensors,
    per_image_table,
    save_examples,
)
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.protocols import PROTOCOLS, evaluate

HEIGHT, WIDTH = 48, 64
FRAMES = 7
TEST = [5, 0, 3, 6]


class RandomFrames:
    size = (HEIGHT, WIDTH)
    slab_frames = 3
    names = tuple(f"frame{index}" for index in range(FRAMES))
    scenes = tuple(f"office_{index:04d}" for index in range(FRAMES))
    scene_types = ("office",) * FRAMES

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.rgb_u8 = random.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
        self.depth_m = random.uniform(0.5, 9.5, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
        self.raw_depth_m = np.where(random.random(self.depth_m.shape) < 0.2, np.float32(0), self.depth_m)

    def __len__(self) -> int:
        return FRAMES

    def read(self, start: int, stop: int) -> Frames:
        return Frames(self.rgb_u8[start:stop], self.depth_m[start:stop], self.raw_depth_m[start:stop])


def from_red(rgb: Tensor) -> Tensor:
    """A predictor that looks at the image, at half its size."""
    return 1 + 8 * rgb[:, :1, ::2, ::2]


def constant(rgb: Tensor) -> Tensor:
    return torch.full((len(rgb), 1, 12, 16), 3.0)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_on_source(from_red, constant, RandomFrames(), TEST, batch_size=2)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_both_predictors_score_as_under_the_protocol_alone(evaluation: Evaluation, protocol: str) -> None:
    source = RandomFrames()
    batches = [(source.rgb_u8[[i]], source.depth_m[[i]], source.raw_depth_m[[i]]) for i in sorted(TEST)]
    for predict, scores in ((from_red, evaluation.network), (constant, evaluation.baseline)):
        alone = evaluate(predict, batches, protocol)
        assert scores[protocol].summary() == pytest.approx(alone.summary(), rel=1e-9)
        for metric in METRICS:
            np.testing.assert_allclose(scores[protocol].per_image[metric], alone.per_image[metric], rtol=1e-9)


def test_the_scores_come_in_the_order_of_the_source(evaluation: Evaluation) -> None:
    assert evaluation.indices == sorted(TEST)


def test_the_error_by_distance_counts_every_measured_pixel_once(evaluation: Evaluation) -> None:
    rows = evaluation.by_distance
    assert sum(row["pixels"] for row in rows) == len(TEST) * HEIGHT * WIDTH
    pooled = np.sqrt(sum(row["pixels"] * row["rmse"] ** 2 for row in rows) / (len(TEST) * HEIGHT * WIDTH))
    assert pooled == pytest.approx(evaluation.network["full"].pooled["rmse"], rel=1e-9)


def test_the_table_has_a_row_a_frame_and_a_column_for_each_metric(evaluation: Evaluation) -> None:
    table = per_image_table(evaluation, RandomFrames())
    assert list(table.columns[:3]) == ["frame", "scene", "scene_type"]
    assert set(table.columns[3:]) == {f"{protocol}_{metric}" for protocol in PROTOCOLS for metric in METRICS}
    assert list(table["frame"]) == [f"frame{index}" for index in sorted(TEST)]
    assert list(table["scene"]) == [f"office_{index:04d}" for index in sorted(TEST)]
    assert table["full_rmse"].mean() == pytest.approx(evaluation.network["full"].mean["rmse"])


ERRORS = arrays(np.float64, st.integers(0, 25), elements=st.floats(0, 5) | st.just(np.nan))


@given(ERRORS, st.integers(1, 6))
def test_no_frame_is_an_example_twice_and_each_rank_has_at_most_so_many(errors: np.ndarray, each: int) -> None:
    chosen = choose_examples(errors, each)
    positions = [position for position, _ in chosen]
    ranks = [rank for _, rank in chosen]
    finite = int(np.isfinite(errors).sum())
    assert len(set(positions)) == len(positions) == min(3 * each, finite)
    assert all(ranks.count(rank) <= each for rank in ("best", "median", "worst"))
    assert np.isfinite(errors[positions]).all()


@given(ERRORS, st.integers(1, 6))
def test_the_best_are_no_worse_than_the_median_and_those_no_worse_than_the_worst(
    errors: np.ndarray, each: int
) -> None:
    chosen = choose_examples(errors, each)
    assert [rank for _, rank in chosen] == sorted(
        (rank for _, rank in chosen), key=["best", "median", "worst"].index
    )
    values = [errors[position] for position, _ in chosen]
    assert values == sorted(values)
    finite = np.sort(errors[np.isfinite(errors)])
    best = [errors[position] for position, rank in chosen if rank == "best"]
    assert best == finite[:each].tolist()


@given(st.integers(1, 4), st.integers(0, 10))
def test_the_median_examples_stand_around_the_median(each: int, more: int) -> None:
    frames = 3 * each + 2 * more
    errors = np.random.default_rng(frames).permutation(frames).astype(float)
    median = [errors[position] for position, rank in choose_examples(errors, each) if rank == "median"]
    assert abs(np.mean(median) - np.median(errors)) <= 0.5


def test_examples_come_in_the_order_they_were_asked_for() -> None:
    source, wanted = RandomFrames(), [5, 0, 3]
    tensors = example_tensors(from_red, source, wanted)
    height, width = EXAMPLE_SIZE
    assert tensors["rgb_u8"].shape == (3, 3, height, width)
    assert tensors["depth_mm"].shape == tensors["prediction_mm"].shape == (3, 1, height, width)
    for position, index in enumerate(wanted):
        # 240 x 320 is five times the frame, so each of its pixels is repeated five times each way
        rgb_u8 = source.rgb_u8[index].transpose(2, 0, 1).repeat(5, axis=1).repeat(5, axis=2)
        np.testing.assert_array_equal(tensors["rgb_u8"][position].numpy(), rgb_u8)
        depth_mm = np.rint(1000 * source.depth_m[index].astype(np.float64)).repeat(5, axis=0).repeat(5, axis=1)
        np.testing.assert_allclose(tensors["depth_mm"][position, 0].numpy(), depth_mm, atol=1)
        mean_mm = 1000 * (1 + 8 * source.rgb_u8[index, ::2, ::2, 0].mean() / 255)
        assert float(tensors["prediction_mm"][position].double().mean()) == pytest.approx(mean_mm, rel=0.01)


def test_saved_examples_carry_the_description_of_their_frames(tmp_path: Path) -> None:
    tensors = example_tensors(from_red, RandomFrames(), [1])
    described = json.dumps([{"frame": "frame1", "rank": "best"}])
    save_examples(tmp_path / "examples.safetensors", tensors, described)
    with safe_open(tmp_path / "examples.safetensors", framework="pt") as file:
        assert file.metadata()["frames"] == described
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
