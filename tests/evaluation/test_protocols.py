from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import METRICS, depth_errors
from pipeline.evaluation.protocols import PROTOCOLS, Batch, Predictor, evaluate, evaluate_all, view

HEIGHT, WIDTH = 480, 640


def frames(n: int = 2, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Batch:
    """A batch as NyuFile gives it: noise as image, filled depth, and raw depth with holes."""
    random = np.random.default_rng(seed)
    rgb_u8 = random.integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    depth_m = random.uniform(0.7, 9.9, (n, height, width)).astype(np.float32)
    raw_depth_m = np.where(random.random(depth_m.shape) < 0.2, 0, depth_m + np.float32(0.02))
    return rgb_u8, depth_m, raw_depth_m


def giving(prediction_m: np.ndarray) -> Predictor:
    """A predictor that knows its answer, (n, H, W) metres."""
    return lambda rgb: torch.from_numpy(prediction_m)[:, None]


def guess(depth_m: np.ndarray, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.3, depth_m.shape)
    return (depth_m * np.exp(noise)).astype(np.float32)


def bts_scores(predictions_m: np.ndarray, truths_m: np.ndarray) -> dict[str, float]:
    """BTS's eval_with_pngs.py for NYU with the Eigen crop: compute_errors of each image, then the mean."""
    min_depth_eval, max_depth_eval = 1e-3, 10
    rows = []
    for pred_depth, gt_depth in zip(predictions_m.copy(), truths_m, strict=True):
        pred_depth[pred_depth < min_depth_eval] = min_depth_eval
        pred_depth[pred_depth > max_depth_eval] = max_depth_eval
        valid_mask = np.logical_and(gt_depth > min_depth_eval, gt_depth < max_depth_eval)
        eval_mask = np.zeros(valid_mask.shape)
        eval_mask[45:471, 41:601] = 1
        valid_mask = np.logical_and(valid_mask, eval_mask)
        gt, pred = gt_depth[valid_mask].astype(np.float64), pred_depth[valid_mask].astype(np.float64)

        thresh = np.maximum((gt / pred), (pred / gt))
        d1 = (thresh < 1.25).mean()
        d2 = (thresh < 1.25**2).mean()
        d3 = (thresh < 1.25**3).mean()
        rmse = np.sqrt(((gt - pred) ** 2).mean())
        rmse_log = np.sqrt(((np.log(gt) - np.log(pred)) ** 2).mean())
        abs_rel = np.mean(np.abs(gt - pred) / gt)
        sq_rel = np.mean(((gt - pred) ** 2) / gt)
        err = np.log(pred) - np.log(gt)
        silog = np.sqrt(np.mean(err**2) - np.mean(err) ** 2) * 100
        log10 = np.mean(np.abs(np.log10(pred) - np.log10(gt)))
        rows.append((rmse, rmse_log, abs_rel, sq_rel, log10, silog, d1, d2, d3))
    return dict(zip(METRICS, np.mean(rows, axis=0).tolist(), strict=True))


def test_eigen_gives_the_figures_of_the_evaluator_of_bts() -> None:
    rgb_u8, depth_m, raw_depth_m = frames(n=3)
    raw_depth_m[0, 100:200, 100:200] = 11.0  # beyond what counts
    prediction_m = guess(depth_m)
    prediction_m[1, 200:220] = -1.0
    prediction_m[2, 200:220] = 60.0
    scores = evaluate(giving(prediction_m), [(rgb_u8, depth_m, raw_depth_m)], "eigen")
    assert scores.mean == pytest.approx(bts_scores(prediction_m, raw_depth_m), rel=1e-7)


@pytest.mark.parametrize(
    ("name", "depth", "rows", "columns", "clip_m"),
    [
        ("full", "filled", (0, 480), (0, 640), (1e-3, 10)),
        ("eigen", "raw", (45, 471), (41, 601), (1e-3, 10)),
        ("densedepth", "filled", (20, 460), (24, 616), (0.1, 10)),
    ],
)
def test_a_protocol_scores_its_crop_of_its_depth(
    name: str, depth: str, rows: tuple[int, int], columns: tuple[int, int], clip_m: tuple[float, float]
) -> None:
    rgb_u8, depth_m, raw_depth_m = frames()
    truth_m = raw_depth_m if depth == "raw" else depth_m
    # Symmetric, so that averaging with the mirrored prediction changes nothing.
    prediction_m = np.broadcast_to(np.float32(3.0), depth_m.shape).copy()
    prediction_m[:, 240] = 40.0
    prediction_m[:, 241] = 1e-6
    expected = depth_errors(
        torch.from_numpy(prediction_m[:, slice(*rows), slice(*columns)]).clamp(*clip_m),
        torch.from_numpy(truth_m[:, slice(*rows), slice(*columns)]),
    )
    scores = evaluate(giving(prediction_m), [(rgb_u8, depth_m, raw_depth_m)], name)
    assert tuple(scores.per_image) == METRICS
    for metric, values in expected.items():
        np.testing.assert_allclose(scores.per_image[metric], values.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "top", "bottom", "left", "right"),
    [("eigen", 45, 470, 41, 600), ("densedepth", 20, 459, 24, 615)],
)
def test_only_what_lies_inside_the_crop_counts(name: str, top: int, bottom: int, left: int, right: int) -> None:
    rgb_u8, depth_m, _ = frames(n=1)
    depth_m[:] = depth_m[..., ::-1] = np.float32(2.0)
    right_inside = np.full_like(depth_m, 9.0)
    right_inside[:, top : bottom + 1, left : right + 1] = 2.0
    assert evaluate(giving(right_inside), [(rgb_u8, depth_m, depth_m)], name).mean["rmse"] == 0
    for row, column in ((top, left), (top, right), (bottom, left), (bottom, right)):
        wrong_at_corner = right_inside.copy()
        wrong_at_corner[:, row, column] = 9.0
        assert evaluate(giving(wrong_at_corner), [(rgb_u8, depth_m, depth_m)], name).mean["rmse"] > 0


@pytest.mark.parametrize(
    ("name", "rows", "columns"), [("eigen", (45, 471), (41, 601)), ("densedepth", (20, 460), (24, 616))]
)
def test_an_error_in_the_outermost_row_or_column_of_a_crop_has_the_score_of_its_share_of_the_pixels(
    name: str, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    """Truth 2 m, 3 m off in one line: inside, RMSE = 3 √(line / crop) and AbsRel = 1.5 line / crop; outside, 0."""
    rgb_u8, depth_m, _ = frames(n=1)
    depth_m[:] = 2.0
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    lines = [
        (np.s_[:, rows[0]], 1 / height),
        (np.s_[:, rows[1] - 1], 1 / height),
        (np.s_[:, rows[0] - 1], 0),
        (np.s_[:, rows[1]], 0),
    ]
    if name == "eigen":  # flips are averaged in the other, which spreads a column over two
        lines += [
            (np.s_[:, :, columns[0]], 1 / width),
            (np.s_[:, :, columns[1] - 1], 1 / width),
            (np.s_[:, :, columns[0] - 1], 0),
            (np.s_[:, :, columns[1]], 0),
        ]
    for line, share in lines:
        prediction_m = depth_m.copy()
        prediction_m[line] = 5.0
        scores = evaluate(giving(prediction_m), [(rgb_u8, depth_m, depth_m)], name)
        assert scores.mean["rmse"] == pytest.approx(3 * share**0.5, rel=1e-6)
        assert scores.pooled["rmse"] == pytest.approx(3 * share**0.5, rel=1e-6)
        assert scores.mean["abs_rel"] == pytest.approx(1.5 * share, rel=1e-6)
        assert scores.mean["delta3"] == pytest.approx(1 - share, rel=1e-9)


def test_a_protocol_divides_by_the_truth_and_not_by_the_prediction() -> None:
    """DenseDepth's own evaluator has them the other way round, and would say 1.0."""
    rgb_u8, depth_m, _ = frames(n=1)
    depth_m[:] = 4.0
    for name in PROTOCOLS:
        scores = evaluate(giving(np.full_like(depth_m, 2.0)), [(rgb_u8, depth_m, depth_m)], name)
        assert (scores.mean["abs_rel"], scores.mean["sq_rel"]) == (0.5, 1.0)


def test_depth_that_is_no_number_does_not_count() -> None:
    rgb_u8, depth_m, _ = frames(n=1)
    depth_m[:] = 2.0
    prediction_m = depth_m.copy()
    depth_m[:, 50:60], prediction_m[:, 50:60] = np.nan, 7.0
    for name in PROTOCOLS:
        assert evaluate(giving(prediction_m), [(rgb_u8, depth_m, depth_m)], name).mean["rmse"] == 0


def test_frames_of_another_size_are_cropped_in_proportion() -> None:
    rgb_u8, depth_m, _ = frames(n=1, height=240, width=320)
    depth_m[:] = 2.0
    right_inside = np.full_like(depth_m, 9.0)
    right_inside[:, 10:230, 12:308] = 2.0  # 20:460 and 24:616, halved
    assert evaluate(giving(right_inside), [(rgb_u8, depth_m, depth_m)], "densedepth").mean["rmse"] == 0
    right_inside[:, 10, 12] = 9.0
    assert evaluate(giving(right_inside), [(rgb_u8, depth_m, depth_m)], "densedepth").mean["rmse"] > 0


def test_eigen_ignores_holes_and_depth_of_ten_metres_or_more() -> None:
    rgb_u8, depth_m, raw_depth_m = frames(n=1)
    raw_depth_m[:] = 2.0
    prediction_m = raw_depth_m.copy()
    raw_depth_m[:, 100:200], raw_depth_m[:, 200:300], raw_depth_m[:, 300:310] = 0.0, 10.0, 1e-3
    assert evaluate(giving(prediction_m), [(rgb_u8, depth_m, raw_depth_m)], "eigen").mean["rmse"] == 0


def test_predictions_are_clipped_before_they_are_scored() -> None:
    batch = frames(n=1)
    for name, (low, high) in {name: protocol.clip_m for name, protocol in PROTOCOLS.items()}.items():
        for wild, bound in ((-5.0, low), (0.0, low), (1e6, high)):
            wild_scores, bound_scores = (
                evaluate(giving(np.full_like(batch[1], depth_m)), [batch], name) for depth_m in (wild, bound)
            )
            assert wild_scores.mean == bound_scores.mean


def test_predictions_are_resized_bilinearly_to_the_frames() -> None:
    batch = frames(n=1)
    small_m = torch.rand(1, 1, 120, 160, generator=torch.Generator().manual_seed(0)) * 5 + 1
    large_m = functional.interpolate(small_m, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    assert (
        evaluate(lambda rgb: small_m, [batch], "full").mean == evaluate(lambda rgb: large_m, [batch], "full").mean
    )


def test_the_predictor_sees_channels_first_images_between_zero_and_one() -> None:
    rgb_u8, depth_m, raw_depth_m = frames(n=2)
    rgb_u8[0, 0, 0], rgb_u8[1, -1, -1] = (0, 51, 255), (255, 0, 0)
    seen: list[Tensor] = []

    def predict(rgb: Tensor) -> Tensor:
        seen.append(rgb)
        return torch.ones(len(rgb), 1, 60, 80)

    evaluate(predict, [(rgb_u8, depth_m, raw_depth_m)], "full")
    (rgb,) = seen
    assert (rgb.shape, rgb.dtype) == ((2, 3, HEIGHT, WIDTH), torch.float32)
    torch.testing.assert_close(rgb[0, :, 0, 0], torch.tensor([0.0, 0.2, 1.0]))
    torch.testing.assert_close(rgb[1, :, -1, -1], torch.tensor([1.0, 0.0, 0.0]))


def test_flip_averaging_scores_the_mean_of_both_views_where_the_protocol_asks() -> None:
    """The predictor leans: 1 m too near at the left edge, 1 m too far at the right, whatever it is shown."""
    rgb_u8, depth_m, _ = frames(n=1)
    depth_m[:] = 4.0
    leaning_m = 4 + torch.linspace(-1, 1, WIDTH).expand(1, 1, HEIGHT, WIDTH)
    scores = evaluate_all(lambda rgb: leaning_m, [(rgb_u8, depth_m, depth_m)])
    assert scores["densedepth"].mean["rmse"] == pytest.approx(0, abs=1e-6)
    assert scores["full"].mean["rmse"] == pytest.approx(np.sqrt(1 / 3), rel=1e-2)
    assert scores["eigen"].mean["rmse"] > 0.4


def test_a_predictor_that_mirrors_with_its_image_is_not_changed_by_flip_averaging() -> None:
    rgb_u8, depth_m, raw_depth_m = frames(n=2)
    predicted_m = 1 + rgb_u8.astype(np.float32).mean(-1) / 255
    expected = depth_errors(
        torch.from_numpy(predicted_m[:, 20:460, 24:616]), torch.from_numpy(depth_m[:, 20:460, 24:616])
    )
    scores = evaluate(lambda rgb: 1 + rgb.mean(1, keepdim=True), [(rgb_u8, depth_m, raw_depth_m)], "densedepth")
    assert scores.mean["rmse"] == pytest.approx(expected["rmse"].mean().item(), rel=1e-6)


def test_the_second_prediction_is_made_only_for_protocols_that_average_flips() -> None:
    calls = 0

    def predict(rgb: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.ones(len(rgb), 1, 60, 80)

    evaluate_all(predict, [frames(n=1)], ("full", "eigen"))
    assert calls == 1
    evaluate_all(predict, [frames(n=1)], ("full", "eigen", "densedepth"))
    assert calls == 3


def test_one_pass_over_all_protocols_gives_what_each_gives_alone() -> None:
    batches = [frames(n=2, seed=0), frames(n=1, seed=1)]
    small_m = torch.rand(2, 1, 60, 80, generator=torch.Generator().manual_seed(0)) * 4 + 1

    def predict(rgb: Tensor) -> Tensor:
        return small_m[: len(rgb)]

    together = evaluate_all(predict, iter(batches))
    assert list(together) == ["full", "eigen", "densedepth"]
    for name, scores in together.items():
        assert scores.summary() == evaluate(predict, batches, name).summary()


def test_the_way_frames_are_batched_does_not_matter() -> None:
    rgb_u8, depth_m, raw_depth_m = frames(n=3)
    one_by_one = [(rgb_u8[i : i + 1], depth_m[i : i + 1], raw_depth_m[i : i + 1]) for i in range(3)]

    def predict(rgb: Tensor) -> Tensor:
        return 1 + 3 * functional.avg_pool2d(rgb.mean(1, keepdim=True), 8)

    whole = evaluate_all(predict, [(rgb_u8, depth_m, raw_depth_m)])
    split = evaluate_all(predict, one_by_one)
    for name, scores in whole.items():
        assert split[name].summary() == pytest.approx(scores.summary(), rel=1e-6)


def test_tensors_serve_as_well_as_arrays() -> None:
    batch = frames(n=1)
    tensors = tuple(torch.from_numpy(array) for array in batch)
    predict = giving(guess(batch[1]))
    assert (
        evaluate(predict, [batch], "eigen").summary()
        == evaluate(predict, [(tensors[0], tensors[1], tensors[2])], "eigen").summary()
    )


def test_the_summary_holds_per_image_means_and_pooled_errors_by_name() -> None:
    # Image 0: a quarter of the pixels valid, off by 1 m; image 1: all valid, off by 3 m.
    rgb_u8, depth_m, _ = frames(n=2)
    depth_m[:] = 4.0
    prediction_m = depth_m + np.array([1, 3], np.float32)[:, None, None]
    depth_m[0, 120:] = 0
    scores = evaluate(giving(prediction_m), [(rgb_u8, depth_m, depth_m)], "full")
    summary = scores.summary()
    assert list(summary) == [*METRICS, *(f"{metric}_pooled" for metric in METRICS)]
    assert all(type(value) is float for value in summary.values())
    assert scores.per_image["rmse"].tolist() == [1, 3]
    assert summary["rmse"] == 2
    assert summary["rmse_pooled"] == pytest.approx(np.sqrt((1 * 1 + 4 * 9) / 5))
    assert summary["abs_rel"] == pytest.approx((0.25 + 0.75) / 2)
    assert summary["abs_rel_pooled"] == pytest.approx((1 * 0.25 + 4 * 0.75) / 5)
    assert (summary["delta3"], summary["delta3_pooled"]) == (1, 1)
    assert (summary["delta2"], summary["delta2_pooled"]) == (0.5, pytest.approx(0.2))


def test_a_frame_without_valid_depth_is_nan_and_left_out_of_the_means() -> None:
    rgb_u8, depth_m, raw_depth_m = frames(n=2)
    raw_depth_m[0] = 0
    prediction_m = guess(depth_m)
    scores = evaluate(giving(prediction_m), [(rgb_u8, depth_m, raw_depth_m)], "eigen")
    alone = evaluate(giving(prediction_m[1:]), [(rgb_u8[1:], depth_m[1:], raw_depth_m[1:])], "eigen")
    assert np.isnan(scores.per_image["rmse"]).tolist() == [True, False]
    assert scores.summary() == pytest.approx(alone.summary(), rel=1e-12)


def test_a_prediction_that_is_not_finite_names_its_frame() -> None:
    batches = [frames(n=2, seed=seed) for seed in range(2)]
    for bad in (float("nan"), float("inf")):
        good_m, bad_m = torch.ones(2, 1, 30, 40), torch.ones(2, 1, 30, 40)
        bad_m[1, 0, 29, 39] = bad
        answers = iter([good_m, bad_m])
        with pytest.raises(PipelineError, match=r"evaluated frame 4 \(counted from 1\) holds NaN or infinity"):
            evaluate(lambda rgb, answers=answers: next(answers), batches, "full")


def test_a_view_is_the_prediction_at_full_size_unclipped_with_its_mean_with_the_mirrored_one() -> None:
    leaning_m = torch.linspace(1, 20, 64).expand(1, 1, 48, 64)
    views = view(lambda rgb: leaning_m, frames(n=1)[0])
    expected = functional.interpolate(leaning_m, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    torch.testing.assert_close(views.single, expected)
    torch.testing.assert_close(views.flip_averaged, torch.full_like(expected, 10.5))


def test_scoring_keeps_no_graph_of_the_network() -> None:
    weight = torch.ones(1, requires_grad=True)

    def predict(rgb: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return weight * rgb.mean(1, keepdim=True) + 1

    evaluate(predict, [frames(n=1)], "full")


def test_an_unknown_protocol_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(PipelineError, match=r"'kitti'.*full, eigen, densedepth"):
        evaluate(lambda rgb: rgb, [], "kitti")


def test_no_frames_and_no_valid_pixels_are_said_plainly() -> None:
    rgb_u8, depth_m, raw_depth_m = frames(n=2)
    predict = giving(depth_m)
    with pytest.raises(PipelineError, match="given no frames"):
        evaluate(predict, [], "full")
    with pytest.raises(PipelineError, match="protocol eigen: none of the 2 frames has a valid depth pixel"):
        evaluate(predict, [(rgb_u8, depth_m, np.zeros_like(raw_depth_m))], "eigen")


@pytest.mark.parametrize("shape", [(1, 60, 80), (1, 3, 60, 80), (2, 1, 60, 80)])
def test_a_predictor_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"predict must return \(1, 1, h, w\)"):
        evaluate(lambda rgb: torch.ones(shape), [frames(n=1)], "full")
