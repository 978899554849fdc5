"""Scoring 654 frames under all protocols against the evaluator that most papers on NYU Depth v2 use, in numpy.

The peer is BTS's `eval_with_pngs.py` (cleinc/bts, utils/), which goes frame by frame: clip, mask, crop, pick the
valid pixels, nine formulas; one pass for each protocol, with that protocol's clip, crop and truth. Ours is
`Scorer.add` and `Scorer.scores`. Both get the same maps of 480 x 640 in memory: one prediction a frame, another for
the protocol that averages flips, filled depth, and a raw depth that differs from it and has holes; both end with
every metric of every protocol, averaged over the images. Reading, prediction, flips and resizing are in neither.
Ours gets two threads, the peer what numpy does with it, which is one.

Blocks of frames are scored in turn, so that whatever else the machine does falls on both. The ratio counts where
`cores_got` is near the number of threads: on a busy machine ours waits for its second core, the peer needs none.
`ratio_of_processor_time` compares the seconds of all processors, as if each had one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from benchmarks.entries import Entry
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.protocols import PROTOCOLS, Protocol, Scorer, Views, batch_depths
from pipeline.training.device import choose_device

FRAMES, QUICK_FRAMES = 654, 8
BLOCK, QUICK_BLOCK = 109, 8
BATCH = 8
SIZE = (480, 640)
THREADS = 2
LIMIT = 10.0
"""Times as fast as the peer."""
ERROR_LIMIT_PPM = 1.0
"""Largest difference of a figure from the peer's formulas in float64."""


class Block(NamedTuple):
    """(n, 480, 640) float32 metres"""

    prediction_m: np.ndarray
    averaged_m: np.ndarray
    """the prediction for protocols that average it with the mirrored one"""
    depth_m: np.ndarray
    raw_depth_m: np.ndarray

    def predicted_m(self, protocol: Protocol) -> np.ndarray:
        return self.averaged_m if protocol.flip_averaging else self.prediction_m


def measure(quick: bool) -> list[Entry]:
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return _measure(quick, choose_device("auto"))
    finally:
        torch.set_num_threads(threads)


def _measure(quick: bool, device: torch.device) -> list[Entry]:
    frames, size = (QUICK_FRAMES, QUICK_BLOCK) if quick else (FRAMES, BLOCK)
    block = _block(size)
    rounds = frames // size
    names = tuple(PROTOCOLS)
    ours_s, peer_s = dict.fromkeys(("all", *names), 0.0), dict.fromkeys(names, 0.0)
    ours_processor_s = peer_processor_s = 0.0
    for number in range(-1, rounds):  # the first round is for warming up
        for key, protocols in ({"all": names} | {name: (name,) for name in names}).items():
            seconds, processor_s = _seconds(partial(_ours, block, protocols, device), device)
            ours_s[key] += seconds if number >= 0 else 0
            ours_processor_s += processor_s if number >= 0 and key == "all" else 0
        for name in names:
            seconds, processor_s = _seconds(partial(bts_errors, block, PROTOCOLS[name]), device)
            peer_s[name] += seconds if number >= 0 else 0
            peer_processor_s += processor_s if number >= 0 else 0
    total_s = sum(peer_s.values())
    ours, peer = _ours(block, names, device), {name: bts_errors(block, PROTOCOLS[name]) for name in names}
    exact = Block(*(maps[:BATCH].astype(np.float64) for maps in block))
    found = _ours(Block(*(maps[:BATCH] for maps in block)), names, device)
    error = max(_difference(found[name], bts_errors(exact, PROTOCOLS[name])) for name in names)
    details = {
        "frames": frames,
        "frames_at_once": BATCH,
        "threads": THREADS,
        "ms_a_frame": {key: 1000 * seconds / frames for key, seconds in ours_s.items()},
        "peer_ms_a_frame": {key: 1000 * seconds / frames for key, seconds in (peer_s | {"all": total_s}).items()},
        "processor_ms_a_frame": 1000 * ours_processor_s / frames,
        "peer_processor_ms_a_frame": 1000 * peer_processor_s / frames,
        "ratio_of_processor_time": peer_processor_s / ours_processor_s,
        "cores_got": ours_processor_s / ours_s["all"],
        "ratio": {name: peer_s[name] / ours_s[name] for name in names},
        "difference_from_peer_ppm": 1e6 * max(_difference(ours[name], peer[name]) for name in names),
    }
    return [
        Entry(
            "evaluate",
            total_s / ours_s["all"],
            "x",
            f"BTS's evaluator in numpy, {frames} frames under {len(names)} protocols, network not included",
            limit=LIMIT,
            better="higher",
            device=device.type,
            details=details,
        ),
        Entry(
            "evaluate.error",
            1e6 * error,
            "ppm",
            "BTS's formulas in float64, the worst of all metrics of all protocols",
            limit=ERROR_LIMIT_PPM,
            device=device.type,
        ),
    ]


def _block(frames: int) -> Block:
    """Smooth rooms of 0.7 to 9.7 m, predictions that are off by 15 % in the large, raw depth with holes."""
    generator = torch.Generator().manual_seed(0)

    def smooth(low: float, high: float, cells: tuple[int, int]) -> torch.Tensor:
        coarse = torch.rand(frames, 1, *cells, generator=generator) * (high - low) + low
        return interpolate(coarse, SIZE, mode="bilinear")[:, 0]

    depth_m = smooth(0.7, 9.7, (5, 6))
    prediction_m = (depth_m * smooth(-0.4, 0.4, (12, 16)).exp()).clamp(max=10)
    averaged_m = (prediction_m * smooth(-0.1, 0.1, (12, 16)).exp()).clamp(max=10)
    raw_depth_m = torch.where(smooth(0, 1, (12, 16)) < 0.25, 0, depth_m + 0.01)
    return Block(*(maps.numpy() for maps in (prediction_m, averaged_m, depth_m, raw_depth_m)))


def _seconds(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds, and those of all processors."""
    started, processors_started = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, time.process_time() - processors_started


def _ours(block: Block, protocols: Sequence[str], device: torch.device) -> dict[str, dict[str, float]]:
    scorer = Scorer(protocols)
    for start in range(0, len(block.depth_m), BATCH):
        batch = Block(*(maps[start : start + BATCH] for maps in block))
        # As the stage has it: the protocols of one view share its tensor.
        views = Views(
            *(torch.from_numpy(maps)[:, None].to(device) for maps in (batch.prediction_m, batch.averaged_m))
        )
        predictions_m = {name: views.of(PROTOCOLS[name]) for name in protocols}
        scorer.add(predictions_m, *batch_depths(batch.depth_m, batch.raw_depth_m, device))
    return {name: scores.mean for name, scores in scorer.scores().items()}


def bts_errors(block: Block, protocol: Protocol) -> dict[str, float]:
    """Means over the frames, the way BTS's `eval` goes; what it reads from its options stands in the protocol."""
    truths_m = block.raw_depth_m if protocol.depth == "raw" else block.depth_m
    (shortest, longest), (nearest, farthest) = protocol.clip_m, protocol.valid_m
    crop = np.s_[slice(*protocol.rows), slice(*protocol.columns)]
    rows = []
    for prediction_m, truth_m in zip(block.predicted_m(protocol), truths_m, strict=True):
        prediction, truth = prediction_m.copy(), truth_m.copy()  # it writes into what it has read
        prediction[prediction < shortest] = shortest
        prediction[prediction > longest] = longest
        prediction[np.isinf(prediction)] = longest
        truth[np.isinf(truth)] = 0
        truth[np.isnan(truth)] = 0
        valid = np.logical_and(truth > nearest, truth < farthest)
        inside = np.zeros(valid.shape)
        inside[crop] = 1
        valid = np.logical_and(valid, inside)
        rows.append(_bts_frame(truth[valid], prediction[valid]))
    return dict(zip(METRICS, np.mean(rows, axis=0).tolist(), strict=True))


def _bts_frame(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, ...]:
    """Its `compute_errors`, in the order of `METRICS`."""
    threshold = np.maximum(truth / prediction, prediction / truth)
    deltas = [(threshold < 1.25**power).mean() for power in (1, 2, 3)]
    rmse = np.sqrt(((truth - prediction) ** 2).mean())
    rmse_log = np.sqrt(((np.log(truth) - np.log(prediction)) ** 2).mean())
    abs_rel = np.mean(np.abs(truth - prediction) / truth)
    sq_rel = np.mean(((truth - prediction) ** 2) / truth)
    error = np.log(prediction) - np.log(truth)
    silog = np.sqrt(np.mean(error**2) - np.mean(error) ** 2) * 100
    log10 = np.mean(np.abs(np.log10(prediction) - np.log10(truth)))
    return (rmse, rmse_log, abs_rel, sq_rel, log10, silog, *deltas)


def _difference(figures: dict[str, float], others: dict[str, float]) -> float:
    """The largest relative one."""
    return max(abs(figures[name] / others[name] - 1) for name in METRICS)
