"""The cards of data and model: what went in, what it is for, and what it is not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.data.kinds import kind_of
from pipeline.overrides import changed_overrides
from pipeline.params import flatten
from pipeline.reporting.colours import ColourScale, missing_as_nan
from pipeline.reporting.inputs import DataFacts
from pipeline.reporting.pictures import tile_size, tile_uri
from pipeline.reporting.text import NBSP, count, is_number, number, percent
from pipeline.reporting.verdict import HEADLINE_PROTOCOL, hardest, trained_on_test

AUGMENTED_PX = 240
SPLIT_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}


@dataclass(frozen=True)
class SplitRow:
    name: str
    frames: int
    copies: int
    scenes: int
    missing: float


@dataclass(frozen=True)
class AugmentedTile:
    caption: str
    alt: str
    uri: str


@dataclass(frozen=True)
class DataCard:
    source: str
    size: str
    trained_on: str
    terms: str
    splits: Sequence[SplitRow]
    augmentation: str
    """in words"""
    tiles: Sequence[AugmentedTile]
    tile_size: tuple[int, int]


def data_card(data: DataFacts, augment: Mapping[str, Any], depths: ColourScale) -> DataCard:
    """augment: the section of the parameters. depths: the page's scale."""
    height, width = data.size
    kind = kind_of(data.source)
    return DataCard(
        source=kind.name,
        size=f"{height} × {width}",
        trained_on=data.trained_on,
        terms=kind.terms,
        splits=[
            SplitRow(SPLIT_NAMES[split], facts.frames, facts.copies, facts.scenes, data.missing[split])
            for split, facts in data.splits.items()
        ],
        augmentation=augmentation_in_words(augment),
        tiles=_augmented_tiles(data, depths),
        tile_size=tile_size(width, height, AUGMENTED_PX),
    )


def augmentation_in_words(augment: Mapping[str, Any]) -> str:
    when = {
        "shards": f"{augment.get('copies')} fixed copy of each training frame beside the clean one"
        if augment.get("copies") == 1
        else f"{augment.get('copies')} fixed copies of each training frame beside the clean one",
        "step": "every batch drawn afresh",
    }.get(str(augment.get("at")))
    if when is None:
        return "None: the network sees each frame as it is."
    # Experiments of older code know neither zoom nor colour.
    zoom, colour = augment.get("zoom", 1), augment.get("colour", 0)
    what = [
        f"mirrored with probability {augment['flip']:g}",
        *([f"zoomed by {1 / zoom:.2g} to {zoom:g} with the depth divided by that"] if zoom > 1 else []),
        *([f"in other light and colours (strength {colour:g})"] if colour > 0 else []),
        f"Gaussian noise of standard deviation {augment['noise_std']:g} on RGB in 0 to 1",
    ]
    return f"{when[0].upper()}{when[1:]}: {', '.join(what)}."


def _augmented_tiles(data: DataFacts, depths: ColourScale) -> list[AugmentedTile]:
    shown = data.augmented
    if shown is None:
        return []
    pictures = (
        ("Image", Image.fromarray(shown.before_u8.transpose(1, 2, 0))),
        ("Augmented", Image.fromarray(shown.after_u8.transpose(1, 2, 0))),
        ("Depth", depths.paint(missing_as_nan(shown.before_mm[0] / 1000))),
        ("Augmented depth", depths.paint(missing_as_nan(shown.after_mm[0] / 1000))),
    )
    return [
        AugmentedTile(caption, f"{caption} of training frame {shown.frame}", tile_uri(image, AUGMENTED_PX))
        for caption, image in pictures
    ]


@dataclass(frozen=True)
class ModelCard:
    purpose: str
    limits: Sequence[str]
    data: str
    facts: Sequence[tuple[str, str]]


def model_card(metrics: Mapping[str, Any], params: Mapping[str, Any], data: DataFacts | None) -> ModelCard:
    return ModelCard(
        purpose=(
            "Predicts a depth map in metres from one RGB image of an indoor scene. Made to study losses and small"
            " networks, and where a rough depth is enough: ordering, coarse layout, blur, a first guess."
        ),
        limits=list(_limits(metrics, params)),
        data=_training_data(metrics, params, data),
        facts=list(_model_facts(metrics, params)),
    )


def _limits(metrics: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Not for measuring, nor for anything that could hurt somebody if a distance is wrong: one image does not"
        " determine scale, and nothing here tells how sure a prediction is."
    )
    deepest = params.get("network", {}).get("max_depth_m")
    if is_number(deepest):
        yield f"Indoors, up to {deepest:g}{NBSP}m: it can predict nothing beyond."
    if str(metrics["source"]) == "rooms":
        yield "Learnt from rendered rooms; photographs look different, and it has never seen one."
    else:
        yield "One camera: another field of view shifts the scale of every depth."
    aligned = metrics.get("aligned", {}).get(HEADLINE_PROTOCOL, {})
    ratio, spread = (aligned.get(name) for name in ("median_ratio", "median_ratio_spread"))
    if is_number(ratio) and is_number(spread):
        # √(mean of (ratio - 1)²): the bias counts as well as the spread.
        off = math.hypot(ratio - 1, spread)
        yield f"Scale of a whole image is off by {percent(off)} (root mean square over test images)."
    if worst := hardest(metrics):
        yield f"Errs most: {worst}."
    if trained_on_test(metrics):
        yield "Trained on the test frames too: its scores tell nothing of new images."


def _training_data(metrics: Mapping[str, Any], params: Mapping[str, Any], data: DataFacts | None) -> str:
    kind = kind_of(str(metrics["source"]))
    frames = ""
    if data is not None and (train := data.splits.get("train")) is not None:
        frames = f" ({train.frames} frames of {train.scenes} scenes)"
    start = params.get("train", {}).get("start_from")
    begun = f"Begun with the weights of {Path(start).name}, then trained" if start else "From scratch"
    return f"{begun} on {kind.name}, {metrics['trained_on']}{frames}. {kind.terms}"


def _model_facts(metrics: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    network = params.get("network", {})
    if "architecture" in network:
        yield "Architecture", f"{network['architecture']}, width {network.get('width', '–')}"
    yield "Parameters", count(metrics.get("parameters"))
    yield "Multiply-adds a frame", count(metrics.get("multiply_adds"))
    yield "Latency, one frame", f"{number(metrics.get('latency_ms'), 1)}{NBSP}ms"
    if is_number(metrics.get("throughput_frames_per_s")):
        batch = metrics.get("throughput_batch")
        at_once = f", {batch} at once" if is_number(batch) else ""
        yield "Throughput", f"{number(metrics['throughput_frames_per_s'], 0)}{NBSP}frames/s{at_once}"
    yield "Measured on", str(metrics.get("device", "–"))
    if is_number(metrics.get("checkpoint_epoch")):
        yield "Checkpoint of epoch", str(metrics["checkpoint_epoch"])


# What is needed to repeat it


def commands(environment: Mapping[str, Any], params: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Shell lines that make this report again; the checkout only where the commit is known.

    defaults: the parameters as committed there; empty if they are not known, and then nothing is said of them.
    """
    commit = re.match(r"[0-9a-f]{7,64}\b", str(environment.get("git_commit") or ""))
    return [*([f"git checkout {commit[0]}"] if commit else []), _run(params, defaults)]


def _run(params: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    changed = changed_overrides(flatten(params), flatten(defaults))
    return " \\\n    ".join(["dvc exp run", *changed]) if changed else "make repro"
