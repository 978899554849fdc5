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

    Depths of NYU: a median of about 2.7 m over the set, from 1.6 to 3.5 m for four frames in five.
    """
    wanted_m = float(np.clip(np.exp(rng.normal(np.log(2.9), 0.38)), 1.5, 6.0))
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
        dullness = _dullness(hits.t, hits.solid, wanted_m)
        if best is None or dullness < best[0]:
            best = (dullness, pose)
    if best is None:
        raise PipelineError(f"rooms: a {scene.kind} has no free place for the camera; choose another seed")
    return best[1]


def _candidate(scene: Scene, rng: np.random.Generator) -> Pose:
    """Someone who stands anywhere and looks across the room, a little down, at some piece of furniture."""
    width, depth, height = scene.size
    position = np.array(
        [
            rng.uniform(0.3, width - 0.3),
            rng.uniform(0.3, depth - 0.3),
            rng.uniform(0.8, min(1.8, height - 0.5)),
        ]
    )
    target = scene.solids.centre[int(rng.integers(1, len(scene.solids)))]
    yaw = np.arctan2(target[1] - position[1], target[0] - position[0]) + rng.normal(0, 0.25)
    pitch = np.clip(rng.normal(-0.16, 0.12), -0.5, 0.2)
    return look(position, float(yaw), float(pitch), float(rng.normal(0, 0.035)))


def _unobstructed(scene: Scene, camera: Intrinsics, pose: Pose) -> bool:
    near = scene.solids.distance_from(pose.position) < _CLEAR_M
    near[0] = False  # the room, whose walls the preview checks
    if not near.any():
        return True
    if scene.solids.distance_from(pose.position)[1:].min() < 0.2:
        return False
    windows = pixel_windows(scene.solids, camera, pose)[near]
    return bool(((windows[:, 1] <= windows[:, 0]) | (windows[:, 3] <= windows[:, 2])).all())


def _dullness(depth_m: np.ndarray, solid: np.ndarray, wanted_m: float) -> float:
    """Low for a picture of the wanted median depth that is filled with many things at many depths."""
    things = len(np.unique(solid))
    bare = float((solid == 0).mean())
    spread = float(np.log(np.percentile(depth_m, 90) / np.percentile(depth_m, 10)))
    return abs(float(np.log(np.median(depth_m) / wanted_m))) + 0.9 * bare - 0.015 * min(things, 30) - 0.2 * spread
