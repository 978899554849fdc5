"""Images of one's own and their lists, written by Pillow and csv."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.lists import write_list

HEIGHT, WIDTH = 6, 9
HEADER = ["rgb", "depth", "split", "scene"]


def write_frame(folder: Path, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Write NAME.png and NAME_depth.png; return their (H, W, 3) uint8 and (H, W) uint16 pixels."""
    random = np.random.default_rng(seed)
    rgb_u8 = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    depth_mm = random.integers(500, 10_000, (HEIGHT, WIDTH), np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb_u8).save(folder / f"{name}.png")
    Image.fromarray(depth_mm).save(folder / f"{name}_depth.png")
    return rgb_u8, depth_mm


def write_csv(path: Path, *rows: list[str], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def row_of(name: str, split: str, scene: str) -> list[str]:
    return [f"{name}.png", f"{name}_depth.png", split, scene]


def fetched(listed: Path, test_list: Path | None = None, *, root: Path | None = None, scale: float = 1000) -> Path:
    """What the fetch stage makes of a list, beside it."""
    target = listed.with_name("frames.csv")
    problems = listed.with_name("problems.csv")
    write_list(listed, target, problems=problems, test_list=test_list, root=root, depth_scale=scale)
    return target
