"""The same test frames as several experiments see them: image, truth, each prediction and its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.reporting.colours import depth_scale, error_scale, missing_as_nan, signed_error_m
from pipeline.reporting.compared import Evaluated, places_of, same_frame
from pipeline.reporting.gallery import BY_LOT, TILE_PX, ColourBar, Tile, colour_bar
from pipeline.reporting.inputs import Predictions
from pipeline.reporting.pictures import tile_size, tile_uri

MOST_FRAMES = 6
"""Six frames of six experiments, at 60 kB a map, stay under 5 MB."""


@dataclass(frozen=True)
class Seen:
    """A frame as one experiment sees it."""

    name: str
    rmse: float | None
    is_best: bool
    """whether no other has a lower RMSE on this frame, and some a higher one"""
    prediction: Tile
    error: Tile


@dataclass(frozen=True)
class SharedFrame:
    title: str
    image: Tile
    truth: Tile
    seen: Sequence[Seen]


@dataclass(frozen=True)
class SideBySide:
    """On one depth and one error scale."""

    frames: Sequence[SharedFrame]
    kept_by_all: int
    left_out: Sequence[str]
    """experiments without predictions, or without any of the same frames"""
    bars: Sequence[ColourBar]
    tile_size: tuple[int, int]


def side_by_side(runs: Sequence[Evaluated]) -> SideBySide | None:
    """The frames that all experiments keep which share any with the reference; None if it shares none.

    Frames drawn by lot come first: which they are does not hang on what any model gets right.
    """
    reference = runs[0].predictions
    if reference is None:
        return None
    shown: list[tuple[Evaluated, Predictions]] = []
    common = set(places_of(reference))
    for run in runs:
        if run.predictions is not None and (shared := common & _shared(reference, run.predictions)):
            shown.append((run, run.predictions))
            common = shared
    if len(shown) < 2:
        return None
    places = places_of(reference)
    keys = sorted(common, key=lambda key: (reference.frames[places[key]]["rank"] != BY_LOT[0], places[key]))
    chosen = keys[:MOST_FRAMES]
    at = [[places_of(predictions)[key] for key in chosen] for _, predictions in shown]
    truth_m = reference.depth_m[at[0]][:, 0]
    predicted_m = [predictions.prediction_m[where][:, 0] for (_, predictions), where in zip(shown, at, strict=True)]
    errors_m = [signed_error_m(prediction_m, truth_m) for prediction_m in predicted_m]
    depths, errors = depth_scale(truth_m, *predicted_m), error_scale(np.stack(errors_m))

    def tile(kind: str, caption: str, frame: str, picture: Image.Image) -> Tile:
        return Tile(kind, caption, f"{caption} of test frame {frame}", tile_uri(picture, TILE_PX))

    frames = []
    for number, (frame, scene) in enumerate(chosen):
        rmse = [
            _number(predictions.frames[where[number]]["rmse"])
            for (_, predictions), where in zip(shown, at, strict=True)
        ]
        known = [value for value in rmse if value is not None]
        frames.append(
            SharedFrame(
                f"Frame {frame}, {scene}",
                tile("image", "Image", frame, Image.fromarray(reference.rgb_u8[at[0][number]].transpose(1, 2, 0))),
                tile("truth", "True depth", frame, depths.paint(missing_as_nan(truth_m[number]))),
                [
                    Seen(
                        run.name,
                        value,
                        value is not None and value == min(known) < max(known),
                        tile(
                            "prediction",
                            f"Depth predicted by {run.name}",
                            frame,
                            depths.paint(missing_as_nan(predicted_m[place][number])),
                        ),
                        tile("error", f"Error of {run.name}", frame, errors.paint(errors_m[place][number])),
                    )
                    for place, ((run, _), value) in enumerate(zip(shown, rmse, strict=True))
                ],
            )
        )
    names = [run.name for run, _ in shown]
    height, width = reference.rgb_u8.shape[-2:]
    return SideBySide(
        frames,
        len(common),
        [run.name for run in runs if run.name not in names],
        (colour_bar("Depth (m)", depths), colour_bar("Predicted – true depth (m)", errors)),
        tile_size(width, height, TILE_PX),
    )


def _shared(one: Predictions, other: Predictions) -> set[tuple[str, str]]:
    """Frames that both keep, of one name and content."""
    places, others = places_of(one), places_of(other)
    if one.rgb_u8.shape[1:] != other.rgb_u8.shape[1:]:
        return set()
    return {key for key in places.keys() & others.keys() if same_frame(one, places[key], other, others[key])}


def _number(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
