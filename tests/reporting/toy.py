"""Inputs of a small report, and a page as its reader meets it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd

from pipeline.reporting.inputs import Augmented, DataFacts, Output, Predictions, ReportInputs, SplitFacts
from pipeline.studies.summary import summarize
from tests.studies.toy import ALL, STUDY

MEASURES = ("rmse", "rmse_log", "abs_rel", "sq_rel", "log10", "silog", "delta1", "delta2", "delta3")
PROTOCOLS = ("full", "eigen", "densedepth")


def scores(start: float) -> dict[str, float | None]:
    """A different number in each place, so that a swapped one is noticed."""
    names = [*MEASURES, *(f"{name}_pooled" for name in MEASURES)]
    return {name: start + 0.0101 * place for place, name in enumerate(names)}


def metrics(**changed: Any) -> dict[str, Any]:
    return {
        "split": "test",
        "frames": 84,
        "source": "rooms",
        "trained_on": "official train split",
        "full": scores(0.56) | {"delta1": 0.713},
        "eigen": scores(0.31),
        "densedepth": scores(0.43),
        "baseline_mean_map": {"full": scores(0.903), "eigen": scores(0.92), "densedepth": scores(0.94)},
        "parameters": 499_000,
        "multiply_adds": 3.1e8,
        "latency_ms": 12.34,
        "height": 480,
        "width": 640,
        "by_distance": [
            {"from_m": 0, "to_m": 1, "pixels": 5, "rmse": 0.2, "abs_rel": 0.1, "delta1": 0.9},
            {"from_m": 1, "to_m": 2, "pixels": 9, "rmse": 0.4, "abs_rel": 0.1, "delta1": 0.8},
        ],
    } | changed


def rich_metrics(**changed: Any) -> dict[str, Any]:
    """With everything that an evaluation writes today; `metrics()` is what it wrote before."""
    names = ("rmse", "abs_rel", "delta1")
    cells = [[0.1 * (4 * row + column) for column in range(4)] for row in range(3)]
    return (
        metrics(
            baseline_constant={protocol: scores(1.1) for protocol in PROTOCOLS},
            aligned={
                protocol: scores(0.4) | {"delta1": 0.8125, "median_ratio": 0.95, "median_ratio_spread": 0.125}
                for protocol in PROTOCOLS
            },
            intervals={
                protocol: {f"{name}{pooled}": [0.52, 0.61] for name in names for pooled in ("", "_pooled")}
                for protocol in PROTOCOLS
            },
            intervals_against_mean_map={"full": {"rmse": [-0.4, -0.3]}},
            bootstrap={"resamples": 10000, "level": 0.95, "seed": 0, "unit": "image"},
            by_scene_type=[
                {"scene_type": "home_office", "frames": 40, "rmse": 0.7, "abs_rel": 0.2, "delta1": 0.6},
                {"scene_type": "cafe", "frames": 44, "rmse": 0.4, "abs_rel": 0.1, "delta1": 0.8},
            ],
            by_region={"rows": 3, "columns": 4, "rmse": cells, "abs_rel": cells, "delta1": cells, "pixels": cells},
            boundaries=[{"threshold_m": 0.25, "precision": 0.375, "recall": 0.125, "f1": 0.1875}],
            error_histogram={"edges_m": [-1.0, 0.0, 1.0], "counts": [30, 10], "mean_map_counts": [15, 25]},
            throughput_frames_per_s=321.75,
            throughput_batch=8,
            device="cpu",
            checkpoint_epoch=3,
        )
        | changed
    )


def data_facts() -> DataFacts:
    random = np.random.default_rng(2)
    rgb_u8, depth_mm = random.integers(0, 256, (3, 24, 32), np.uint8), random.integers(900, 5000, (1, 24, 32))
    return DataFacts(
        source="rooms",
        size=(24, 32),
        trained_on="official train split",
        fingerprint="9f86d081884c7d65",
        splits={"train": SplitFacts(60, 60, 21, 4), "val": SplitFacts(7, 0, 3, 2), "test": SplitFacts(11, 0, 5, 3)},
        edges_m=np.arange(0, 11.0),
        counts={"train": np.arange(10), "val": np.zeros(10), "test": np.arange(10)[::-1]},
        missing={"train": 0.125, "val": 0.0, "test": 0.0625},
        augmented=Augmented(
            "0007", rgb_u8, rgb_u8[..., ::-1], depth_mm.astype(np.int16), depth_mm[..., ::-1].astype(np.int16)
        ),
    )


def run_row(name: str, rmse: float, **params: Any) -> dict[str, Any]:
    """A row of the table of runs; params with __ for the dot."""
    given = {"seed": "0", "loss.ssim_weight": "0.5"} | {
        key.replace("__", "."): str(value) for key, value in params.items()
    }
    scored = {"val_rmse": rmse - 0.1, "test_rmse": rmse, "test_delta1": 1 - rmse / 2}
    named = {"run_id": name, "name": name, "group": None, "training": name}
    return named | {f"params.{key}": value for key, value in given.items()} | scored


def history(epochs: int = 3, *, validation: bool = True) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    table: dict[str, Any] = {"epoch": epoch, "seconds": 10.0, "learning_rate": 1e-4, "frames_per_s": 220.0}
    for split in ("train", "val") if validation else ("train",):
        table |= {f"{split}_loss_{term}": 1.0 / epoch for term in ("total", "mse", "ssim")}
    if validation:
        table |= {"val_rmse": 1.0 / epoch} | {f"val_delta{k}": 0.9 - 0.1 / epoch for k in (1, 2, 3)}
    return pd.DataFrame(table)


def predictions(ranks: tuple[str, ...], size: tuple[int, int] = (48, 64)) -> Predictions:
    random = np.random.default_rng(0)
    depth_mm = random.integers(800, 6000, (len(ranks), 1, *size)).astype(np.int16)
    return Predictions(
        rgb_u8=random.integers(0, 256, (len(ranks), 3, *size), dtype=np.uint8),
        depth_mm=depth_mm,
        prediction_mm=(depth_mm + 150).astype(np.int16),
        frames=[
            {"frame": f"{k:04d}", "scene": f"office_{k}", "rank": rank, "rmse": 0.2 + k}
            for k, rank in enumerate(ranks)
        ],
    )


def tested(rmse: float) -> pd.DataFrame:
    """Twelve test frames of as many scenes, whose mean RMSE is this."""
    columns: dict[str, Any] = {
        "frame": [f"{number:04d}" for number in range(12)],
        "scene": [f"{kind}_{number}" for kind in ("office", "cafe") for number in range(6)],
        "scene_type": ["office"] * 6 + ["cafe"] * 6,
        "full_rmse": rmse + np.linspace(-0.1, 0.1, 12),
    }
    return pd.DataFrame(columns | {"full_delta1": 1 - columns["full_rmse"]})


INPUTS = ReportInputs(
    title="Depth of rooms",
    metrics=metrics(),
    per_image=pd.DataFrame(
        {
            "frame": ["0000", "0001"],
            "scene": ["office_0", "cafe_1"],
            "scene_type": ["office", "cafe"],
            "full_rmse": [0.5, 0.6],
        }
    ),
    history=history(),
    predictions=predictions(("best", "median", "worst")),
    params={"seed": 42, "loss": {"ssim_weight": 0.5}, "train": {"gradient_clip": None, "ema": True}},
    environment={"git_commit": "3f2a9c81d7e4", "torch": "2.13.0+cpu"},
    data_fingerprint="9f86d081884c7d65",
    run_id="b1946ac92492d234",
)


RICH = replace(
    INPUTS,
    metrics=rich_metrics(),
    data=data_facts(),
    params={
        "seed": 42,
        "augment": {"at": "shards", "copies": 1, "flip": 0.5, "noise_std": 0.02},
        "network": {"architecture": "unet", "width": 16, "max_depth_m": 10.0},
        "loss": {"ssim_weight": 0.5},
    },
    this_run=run_row("lucid-lark", 0.56),
    previous_run=run_row("plain-pike", 0.75, loss__ssim_weight=0.25),
    previous_metrics=rich_metrics(full=scores(0.75) | {"delta1": 0.625}),
    previous_per_image=tested(0.75),
    per_image=tested(0.56),
    committed_params={"seed": 0, "loss": {"ssim_weight": 0.5}},
    outputs=[Output("fetch", "data/raw", "ab12.dir")],
    studies=[summarize(STUDY, ALL)],
)
"""With everything that a report can show."""


@dataclass
class Page(HTMLParser):
    """What a reader of the page meets: elements with their attributes, and table rows as text."""

    text: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: content or "" for name, content in attrs}))
        if tag not in ("meta", "img", "source", "br"):
            self.open_tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open_tags):
            self.rows[-1][-1] += data

    def cells(self, *start: str) -> list[list[str]]:
        rows = [[cell.strip().replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in self.rows]
        return [row for row in rows if row[: len(start)] == list(start)]

    @property
    def images(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == "img"]


def only_own_scripts(text: str) -> bool:
    """Whether the page's scripts are its own, which the policy names, and data, which no browser runs."""
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.S)
    own = [content for attributes, content in scripts if "application/json" not in attributes]
    digest = base64.b64encode(hashlib.sha256("".join(own).encode()).digest()).decode()
    return len(own) == 1 and f"script-src 'sha256-{digest}';" in text and text.count("<script") == len(scripts)
