"""Where to stand in a scene so that the picture is worth learning from."""

from __future__ import annotations

import numpy as np

from pipeline.data.rooms.camera import Intrinsics, Pose, look, nyu_intrinsics, pixel_windows, ray_directions
from pipeline.data.rooms.render import see
from pipeline.data.rooms.scene import Scene
from pipeline.errors import PipelineError

NEAREST_M, FARTHEST_M = 0.5, 10.0
_PREVIEW = nyu_intrinsics(24, 32)
_CLEAR_M = 0.66
"""Nothing in view is nearer. The picture's corners look 39° aside: 0.66 m there is 0.51 m of depth."""
_CANDIDATES = 6
_TRIES = 3000


def choose_view(scene: Scene, camera: Intrinsics, rng: np.random.Generator) -> Pose:
    """A pose whose every pixel has a depth of 0.5 to 10 m, the best of a few by `_dullness`.

    Pictures look across whole rooms, so the median depth over the set is 3.7 m, a metre more than in NYU.
    """
    best: tuple[float, Pose] | None = None
    found = 0
    for _ in range(_TRIES):
        if found == _CANDIDATES:
            break
        pose = _candidate(scene, rng)
        if not _unobstructed(scene, camera, pose):
            continue
        hits = see(scene.solids, _PREVIEW, pose, ray_directions(_PREVIEW, pose))
        if hits.t.min() < NEAREST_M + 0.02 or hits.t.max() > FARTHEST_M - 0.1:
            continue
        found += 1
        dullness = _dullness(hits.t, hits.solid)
        if best is None or dullness < best[0]:
            best = (dullness, pose)
    if best is None:
        raise PipelineError(f"rooms: a {scene.kind} has no free place for the camera; choose another seed")
    return best[1]


def _candidate(scene: Scene, rng: np.random.Generator) -> Pose:
    """Someone who stands with a wall behind them and looks across the room, a little down.

    Where the floor ends in the picture then tells how large the room is, as it does in most photographs.
    """
    width, depth, height = scene.size
    room = np.array([width, depth])
    wall = int(rng.integers(4))
    across, along = wall % 2, 1 - wall % 2
    spot = np.empty(2)
    back = rng.uniform(0.25, 0.6)
    spot[across] = back if wall < 2 else room[across] - back
    spot[along] = rng.uniform(0.1, 0.9) * room[along]
    eye = float(np.clip(rng.normal(1.5, 0.1), 1.0, min(1.8, height - 0.5)))
    to_centre = room * rng.uniform(0.4, 0.6, 2) - spot
    yaw = np.arctan2(to_centre[1], to_centre[0]) + rng.normal(0, 0.15)
    pitch = np.clip(rng.normal(-0.2, 0.035), -0.4, 0.1)
    return look(np.array([*spot, eye]), float(yaw), float(pitch), float(rng.normal(0, 0.02)))


def _unobstructed(scene: Scene, camera: Intrinsics, pose: Pose) -> bool:
    distance_m = scene.solids.distance_from(pose.position)
    distance_m[0] = np.inf  # the room, whose walls the preview checks
    near = np.flatnonzero(distance_m < _CLEAR_M)
    if not len(near):
        return True
    if distance_m.min() < 0.2:
        return False
    windows = pixel_windows(scene.solids, camera, pose, near)
    return bool(((windows[:, 1] <= windows[:, 0]) | (windows[:, 3] <= windows[:, 2])).all())


def _dullness(depth_m: np.ndarray, solid: np.ndarray) -> float:
    """Low for a picture that is filled with many things at many depths, none of them so near that it hides them."""
    things = len(np.unique(solid))
    bare = float((solid == 0).mean())
    near = float((depth_m < 1.6).mean())
    return 0.5 * bare - 0.01 * min(things, 30) + 3.0 * near
