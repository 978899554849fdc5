"""What came out, in a sentence or two of plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.reporting.text import NBSP, interval, is_number, number, percent

HEADLINE_PROTOCOL = "full"
FEWEST_FRAMES = 5
"""Scene types with fewer test frames say more of these frames than of their kind."""
FEWEST_PIXELS = 0.01
"""Share of all pixels below which a band of distance is not worth a sentence."""


def verdict(metrics: Mapping[str, Any]) -> str:
    """The result in one sentence, from the headline protocol averaged per image."""
    scores = metrics[HEADLINE_PROTOCOL]
    frames = f"{metrics['frames']} {{}}test frame{'' if metrics['frames'] == 1 else 's'}"
    frames = (
        f"{frames.format('')} that were also trained on" if trained_on_test(metrics) else frames.format("unseen ")
    )
    return (
        f"RMSE {number(scores['rmse'], 2)}{NBSP}m on {frames}{_against_baseline(metrics)}; "
        f"{percent(scores['delta1'])} of pixels within a factor of 1.25 of the true depth (δ1)"
    )


def certainty(metrics: Mapping[str, Any]) -> str:
    """How far the headline would move with other test frames; empty where no intervals were computed."""
    level = percent(metrics.get("bootstrap", {}).get("level", 0.95))
    of_metrics = metrics.get("intervals", {}).get(HEADLINE_PROTOCOL, {})
    told = [
        f"{name} {interval(of_metrics.get(key), digits)}{unit}"
        for key, name, digits, unit in (("rmse", "RMSE", 3, f"{NBSP}m"), ("delta1", "δ1", 3, ""))
        if interval(of_metrics.get(key))
    ]
    against = metrics.get("intervals_against_mean_map", {}).get(HEADLINE_PROTOCOL, {}).get("rmse")
    if against and all(is_number(bound) for bound in against):
        low, high = against
        if high < 0:
            told.append(f"better than the mean-depth map by {number(-high)}–{number(-low)}{NBSP}m")
        elif low > 0:
            told.append(f"worse than the mean-depth map by {number(low)}–{number(high)}{NBSP}m")
        else:
            told.append("not told apart from the mean-depth map")
    return f"{level} confidence: {'; '.join(told)}" if told else ""


def hardest(metrics: Mapping[str, Any]) -> str:
    """Where it fails: distance, kind of scene and region with the highest RMSE; empty if none is known."""
    return "; ".join(_hardest(metrics))


def _hardest(metrics: Mapping[str, Any]) -> Iterator[str]:
    bands = [band for band in metrics.get("by_distance") or () if is_number(band.get("rmse"))]
    pixels = sum(band["pixels"] for band in bands)
    bands = [band for band in bands if band["pixels"] >= FEWEST_PIXELS * pixels]
    if len(bands) > 1:
        worst = max(bands, key=lambda band: band["rmse"])
        yield f"{worst['from_m']:g}–{worst['to_m']:g}{NBSP}m away (RMSE {number(worst['rmse'], 2)}{NBSP}m)"
    kinds = [
        kind
        for kind in metrics.get("by_scene_type") or ()
        if is_number(kind.get("rmse")) and kind["frames"] >= FEWEST_FRAMES
    ]
    if len(kinds) > 1:
        worst = max(kinds, key=lambda kind: kind["rmse"])
        name = str(worst["scene_type"]).replace("_", " ")
        yield f"scene type {name} ({number(worst['rmse'], 2)}{NBSP}m)"
    region = metrics.get("by_region")
    if region:
        rmse = {
            (row, column): value
            for row, values in enumerate(region["rmse"])
            for column, value in enumerate(values)
            if is_number(value)
        }
        if len(rmse) > 1:
            row, column = max(rmse, key=lambda place: rmse[place])
            yield f"the image's {region_name(row, column, region['rows'], region['columns'])}"


def region_name(row: int, column: int, rows: int, columns: int) -> str:
    """A cell of a grid over the image in words, as "top left"."""
    down = "top" if row == 0 else "bottom" if row == rows - 1 else "middle"
    middle = (column + 0.5) / columns
    across = "left" if middle < 1 / 3 else "right" if middle > 2 / 3 else "centre"
    return f"{down} {across}"


def _against_baseline(metrics: Mapping[str, Any]) -> str:
    baseline = metrics.get("baseline_mean_map", {}).get(HEADLINE_PROTOCOL, {}).get("rmse")
    rmse = metrics[HEADLINE_PROTOCOL]["rmse"]
    if not (is_number(rmse) and is_number(baseline) and baseline > 0):
        return ""
    change = round(100 * (rmse / baseline - 1))
    if change == 0:
        return ", level with the mean‑depth map"
    return f", {abs(change)}{NBSP}% {'below' if change < 0 else 'above'} the mean‑depth map"


def trained_on_test(metrics: Mapping[str, Any]) -> bool:
    """Whether `preprocess.split: all` put the test frames into training, as `trained_on` then says."""
    return str(metrics["trained_on"]).startswith("all frames")
