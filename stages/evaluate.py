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
from pipeline.evaluation.baselines import mean_depth_map
from pipeline.evaluation.cost import latency_ms, multiply_adds
from pipeline.evaluation.evaluator import (
    RANKING,
    choose_examples,
    evaluate_on_source,
    example_tensors,
    per_image_table,
    save_examples,
)
from pipeline.evaluation.predictor import network_predictor
from pipeline.files import write_json, written_whole
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
    index = read_index(paths.SHARDS)
    predict = network_predictor(network, info.input_size, info.border, device)
    mean_m = mean_training_depth()

    with open_source(paths.RAW) as source:
        frames, test = source.frames, source.splits["test"]
        evaluation = evaluate_on_source(
            predict, lambda rgb: mean_m.expand(len(rgb), -1, -1, -1), frames, test, settings.batch_size
        )
        protocol, metric = RANKING
        chosen = choose_examples(evaluation.network[protocol].per_image[metric], settings.examples)
        examples = [
            {
                "frame": frames.names[evaluation.indices[position]],
                "scene": frames.scenes[evaluation.indices[position]],
                "rank": rank,
                "rmse": float(evaluation.network[protocol].per_image[metric][position]),
            }
            for position, rank in chosen
        ]
        tensors = example_tensors(predict, frames, [evaluation.indices[position] for position, _ in chosen])
        save_examples(paths.PREDICTIONS, tensors, json.dumps(examples))
        with written_whole(paths.PER_IMAGE) as partial:
            per_image_table(evaluation, frames).to_csv(partial, index=False)
        height, width = frames.size
        summaries = {name: scores.summary() for name, scores in evaluation.network.items()}
        write_json(
            paths.METRICS,
            {
                "split": "test",
                "frames": len(test),
                "source": source.kind,
                "trained_on": index["trained_on"],
                **summaries,
                "baseline_mean_map": {name: scores.summary() for name, scores in evaluation.baseline.items()},
                "by_distance": evaluation.by_distance,
                "parameters": count_parameters(network),
                "multiply_adds": multiply_adds(network, info.input_size),
                "latency_ms": latency_ms(network, info.input_size),
                "device": str(device),
                "checkpoint_epoch": info.epoch,
                "height": height,
                "width": width,
            },
        )


def mean_training_depth() -> torch.Tensor:
    """The mean depth map of all training frames, those carved out for validation included."""
    return mean_depth_map(clean_depth_batches())


def clean_depth_batches() -> Iterator[torch.Tensor]:
    for split in ("train", "val"):
        shards = ShardSet(paths.SHARDS, split)
        clean = [position for position, frame in enumerate(shards.frames) if frame.copy == 0]
        for start in range(0, len(clean), 64):
            yield shards.depth_mm[clean[start : start + 64]]


if __name__ == "__main__":
    with reported_to_user("evaluate"):
        main()
