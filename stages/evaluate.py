"""Stage `evaluate`: a checkpoint scored on the test frames under every protocol, at the frames' own resolution."""

from __future__ import annotations

from pipeline.tracking import stage_run, start_sender

if __name__ == "__main__":
    start_sender()  # it imports MLflow while the imports below go on here

import json
from collections.abc import Iterator

import torch

from pipeline import paths
from pipeline.data.shards import ShardSet, read_index
from pipeline.data.source import open_source
from pipeline.errors import reported_to_user
from pipeline.evaluation.baselines import mean_depths
from pipeline.evaluation.cost import THROUGHPUT_BATCH, latency_ms, multiply_adds, throughput_frames_per_s
from pipeline.evaluation.evaluator import (
    describe_examples,
    evaluate_on_source,
    example_tensors,
    per_image_table,
    save_examples,
)
from pipeline.evaluation.predictor import network_predictor
from pipeline.evaluation.summary import distance_table, for_tables, histogram_table, summary
from pipeline.files import write_json, write_text
from pipeline.model.checkpoint import load_network, read_checkpoint_info
from pipeline.model.network import count_parameters
from pipeline.params import Evaluate, load_params
from pipeline.training.device import claim_device, memory_shortage_told


def main() -> None:
    params = load_params()
    with stage_run("evaluate", params.model_dump()) as run, memory_shortage_told("evaluate.batch_size"):
        device = claim_device(params.evaluate.device, paths.repository_root() / paths.STATE / "gpu")
        run.set_tags({"evaluate.device": str(device)})
        score(params.evaluate, device)


def score(settings: Evaluate, device: torch.device) -> None:
    checkpoint = paths.BEST_CHECKPOINT if settings.checkpoint == "best" else paths.LAST_CHECKPOINT
    network, info = load_network(checkpoint), read_checkpoint_info(checkpoint)
    predict = network_predictor(network, info.input_size, info.border, device)
    means = mean_depths(clean_depth_batches())

    with open_source(paths.RAW) as source:
        frames, test = source.frames, source.splits["test"]
        evaluation = evaluate_on_source(predict, means, frames, test, settings.batch_size)
        per_image = per_image_table(evaluation, frames)
        examples, chosen = describe_examples(evaluation, per_image, settings.examples)
        save_examples(paths.PREDICTIONS, example_tensors(predict, frames, chosen), json.dumps(examples))
    height, width = frames.size
    metrics = {
        "split": "test",
        "frames": len(test),
        "frames_sha256": evaluation.frames_sha256,
        "source": source.kind,
        "trained_on": read_index(paths.SHARDS)["trained_on"],
        **summary(evaluation, per_image),
        "parameters": count_parameters(network),
        "multiply_adds": multiply_adds(network, info.input_size),
        "latency_ms": latency_ms(network, info.input_size),
        "throughput_frames_per_s": throughput_frames_per_s(network, info.input_size),
        "throughput_batch": THROUGHPUT_BATCH,
        "device": str(device),
        "checkpoint_epoch": info.epoch,
        "height": height,
        "width": width,
    }
    write_json(paths.METRICS, metrics)
    write_json(paths.METRICS_SUMMARY, for_tables(metrics))
    for path, table in (
        (paths.PER_IMAGE, per_image),
        (paths.BY_DISTANCE, distance_table(metrics)),
        (paths.ERROR_HISTOGRAM, histogram_table(metrics)),
    ):
        write_text(path, table.to_csv(index=False))


def clean_depth_batches() -> Iterator[torch.Tensor]:
    """The depth of all training frames, those carved out for validation included."""
    for split in ("train", "val"):
        shards = ShardSet(paths.SHARDS, split)
        clean = [position for position, frame in enumerate(shards.frames) if frame.copy == 0]
        for start in range(0, len(clean), 64):
            yield shards.depth_mm[clean[start : start + 64]]


if __name__ == "__main__":
    with reported_to_user("evaluate"):
        main()
