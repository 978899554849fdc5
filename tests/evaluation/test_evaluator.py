"""One pass over the test frames against the protocols run on their own, and the choice of examples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.data.frames import Frames
from pipeline.evaluation.baselines import MeanDepths
from pipeline.evaluation.evaluator import (
    EXAMPLE_SIZE,
    Evaluation,
    choose_examples,
    describe_examples,
    evaluate_on_source,
    example_tensors,
    fixed_examples,
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


MEANS = MeanDepths(torch.linspace(1, 6, 12 * 16).view(1, 1, 12, 16), torch.full((1, 1, 1, 1), 3.0))


def mean_map(rgb: Tensor) -> Tensor:
    return MEANS.map_m.expand(len(rgb), -1, -1, -1)


def constant(rgb: Tensor) -> Tensor:
    return torch.full((len(rgb), 1, 12, 16), 3.0)


def flipped_too(rgb: Tensor) -> Tensor:
    return (from_red(rgb) + from_red(rgb.flip(-1)).flip(-1)) / 2


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_on_source(from_red, MEANS, RandomFrames(), TEST, batch_size=2)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_network_and_baselines_score_as_under_the_protocol_alone(evaluation: Evaluation, protocol: str) -> None:
    source = RandomFrames()
    batches = [(source.rgb_u8[[i]], source.depth_m[[i]], source.raw_depth_m[[i]]) for i in sorted(TEST)]
    for predict, scores in (
        (from_red, evaluation.network),
        (mean_map, evaluation.baseline),
        (constant, evaluation.constant),
    ):
        alone = evaluate(predict, batches, protocol)
        assert scores[protocol].summary() == pytest.approx(alone.summary(), rel=1e-6)
        for metric in METRICS:
            np.testing.assert_allclose(scores[protocol].per_image[metric], alone.per_image[metric], rtol=1e-5)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_the_network_is_scored_with_and_without_flips_under_every_protocol(
    evaluation: Evaluation, protocol: str
) -> None:
    """A predictor whose answers are averaged already is not changed by the protocol's own averaging."""
    source = RandomFrames()
    batches = [(source.rgb_u8[[i]], source.depth_m[[i]], source.raw_depth_m[[i]]) for i in sorted(TEST)]
    averaged = evaluate(flipped_too, batches, protocol)
    assert evaluation.flip_averaged[protocol].summary() == pytest.approx(averaged.summary(), rel=1e-5)
    prescribed = evaluation.flip_averaged if PROTOCOLS[protocol].flip_averaging else evaluation.single
    assert evaluation.network[protocol] is prescribed[protocol]
    assert evaluation.single[protocol].mean["rmse"] > evaluation.flip_averaged[protocol].mean["rmse"]


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_an_aligned_prediction_is_scaled_before_it_is_clipped_and_scored(
    evaluation: Evaluation, protocol: str
) -> None:
    """Of the second frame, by numpy: medians inside the crop, prediction as the protocol sees it."""
    source, position = RandomFrames(), 1
    index, one = sorted(TEST)[position], PROTOCOLS[protocol]
    rgb = torch.from_numpy(source.rgb_u8[[index]]).permute(0, 3, 1, 2).float() / 255
    small_m = flipped_too(rgb) if one.flip_averaging else from_red(rgb)
    p = interpolate(small_m, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0, 0].double().numpy()
    g = (source.raw_depth_m if one.depth == "raw" else source.depth_m)[index].astype(np.float64)
    region = one.region(HEIGHT, WIDTH)
    p, g = p[region.rows, region.columns], g[region.rows, region.columns]
    valid = (g > one.valid_m[0]) & (g < one.valid_m[1])
    ratio = np.quantile(g[valid], 0.5, method="lower") / np.quantile(p[valid], 0.5, method="lower")
    error = np.clip(p * ratio, *one.clip_m)[valid] - g[valid]
    assert evaluation.median_ratios[protocol][position] == pytest.approx(ratio, rel=1e-5)
    found = evaluation.aligned[protocol].per_image
    assert found["rmse"][position] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert found["abs_rel"][position] == pytest.approx((abs(error) / g[valid]).mean(), rel=1e-5)


def test_the_scores_come_in_the_order_of_the_source(evaluation: Evaluation) -> None:
    assert evaluation.indices == sorted(TEST)


def test_the_error_by_distance_counts_every_measured_pixel_once(evaluation: Evaluation) -> None:
    rows = evaluation.breakdown.by_distance()
    assert sum(row["pixels"] for row in rows) == len(TEST) * HEIGHT * WIDTH
    pooled = np.sqrt(sum(row["pixels"] * row["rmse"] ** 2 for row in rows) / (len(TEST) * HEIGHT * WIDTH))
    assert pooled == pytest.approx(evaluation.network["full"].pooled["rmse"], rel=1e-6)


def test_parts_of_the_image_and_histogram_count_every_measured_pixel_once(evaluation: Evaluation) -> None:
    pixels = len(TEST) * HEIGHT * WIDTH
    assert sum(map(sum, evaluation.breakdown.by_region()["pixels"])) == pixels
    assert sum(evaluation.histogram.counts()) == sum(evaluation.baseline_histogram.counts()) == pixels
    assert evaluation.histogram.counts() != evaluation.baseline_histogram.counts()


def test_the_table_has_a_row_a_frame_and_a_column_for_each_metric(evaluation: Evaluation) -> None:
    table = per_image_table(evaluation, RandomFrames())
    assert list(table.columns[:3]) == ["frame", "scene", "scene_type"]
    assert set(table.columns[3:]) == {f"{protocol}_{metric}" for protocol in PROTOCOLS for metric in METRICS} | {
        "full_aligned_delta1",
        "eigen_aligned_delta1",
        "densedepth_aligned_delta1",
        "mean_map_full_rmse",
        "median_ratio",
    }
    assert list(table["frame"]) == [f"frame{index}" for index in sorted(TEST)]
    assert list(table["scene"]) == [f"office_{index:04d}" for index in sorted(TEST)]
    assert table["full_rmse"].mean() == pytest.approx(evaluation.network["full"].mean["rmse"])
    assert table["mean_map_full_rmse"].mean() == pytest.approx(evaluation.baseline["full"].mean["rmse"])


def test_examples_are_described_by_the_rows_of_the_table(evaluation: Evaluation) -> None:
    table = per_image_table(evaluation, RandomFrames())
    described, indices = describe_examples(evaluation, table, each=1)
    assert [row["rank"] for row in described] == ["best", "median", "worst"]
    assert described[0]["rmse"] == table["full_rmse"].min()
    assert described[2]["rmse"] == table["full_rmse"].max()
    assert [row["frame"] for row in described] == [f"frame{index}" for index in indices]
    assert json.loads(json.dumps(described)) == described


def test_two_models_keep_some_of_the_same_frames_whatever_their_errors(evaluation: Evaluation) -> None:
    names = [f"{number:04d}" for number in range(60)]
    random = np.random.default_rng(5)
    kept = []
    for _ in range(2):
        errors = random.permutation(60).astype(float)
        table = pd.DataFrame(
            {"frame": names, "scene": "office_0", "scene_type": "office", "full_rmse": errors}
            | {"mean_map_full_rmse": 1.0, "median_ratio": 1.0}
        )
        described, indices = describe_examples(replace(evaluation, indices=list(range(100, 160))), table, each=3)
        assert [names[index - 100] for index in indices] == [row["frame"] for row in described]
        assert len({row["frame"] for row in described}) == len(described) <= 12
        kept.append({row["frame"] for row in described})
    assert len(kept[0] & kept[1]) >= 3
    drawn = [names[position] for position in fixed_examples(names, 3)]
    assert set(drawn) <= kept[0] & kept[1]
    assert drawn == sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:3]
    assert fixed_examples(names, 2) == fixed_examples(names, 3)[:2], "runs that keep fewer keep the same ones"
    assert sorted(fixed_examples(names[:2], 3)) == [0, 1]


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


def test_the_frames_are_told_apart_by_name_pixels_both_depths_and_number_and_by_nothing_else(
    evaluation: Evaluation,
) -> None:
    def fingerprint(source: RandomFrames, test: list[int], batch_size: int = 2) -> str:
        return evaluate_on_source(mean_map, MEANS, source, test, batch_size).frames_sha256

    same = RandomFrames()
    same.rgb_u8[1] = same.depth_m[1] = 1  # no test frame
    # As MATLAB's files are read: the same numbers, in another order in memory.
    same.rgb_u8 = np.asarray(same.rgb_u8, order="F")
    assert 1 not in TEST
    assert fingerprint(same, TEST, batch_size=1) == evaluation.frames_sha256
    darker, nearer, renamed, sensed = RandomFrames(), RandomFrames(), RandomFrames(), RandomFrames()
    sensed.raw_depth_m[TEST[0], 3, 3] += 0.1
    darker.rgb_u8[TEST[0]] //= 2
    nearer.depth_m[TEST[-1], 0, 0] -= 0.1
    renamed.names = tuple(reversed(renamed.names))
    others = [fingerprint(source, TEST) for source in (darker, nearer, renamed, sensed)]
    others.append(fingerprint(RandomFrames(), TEST[1:]))
    assert len({*others, evaluation.frames_sha256}) == 6
