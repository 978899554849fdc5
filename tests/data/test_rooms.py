from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from scipy.io import loadmat

from pipeline.data.nyu import NyuFile, read_splits
from pipeline.data.rooms import render_rooms
from pipeline.data.rooms.camera import Intrinsics, Pose, look, nyu_intrinsics, ray_directions
from pipeline.data.rooms.render import see
from pipeline.data.rooms.scene import ROOM_KINDS, furnished
from pipeline.data.rooms.solids import FACES, Kind, Solid, SolidTable
from pipeline.errors import PipelineError
from pipeline.files import sha256_of

HEIGHT, WIDTH = 60, 80
ROOM = Solid(Kind.ROOM, (2.5, 2.0, 1.3), (2.5, 2.0, 1.3), (0,) * FACES)
CAMERA = nyu_intrinsics(HEIGHT, WIDTH)
POSE = look(np.array([0.7, 0.9, 1.5]), yaw=0.5, pitch=-0.2, roll=0.05)


def render(folder: Path, **changes: int | float) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    settings = {"frames": 6, "frames_per_scene": 2, "test_fraction": 0.34, "seed": 5, "workers": 1} | changes
    render_rooms(folder / "rooms.mat", folder / "splits.mat", height=HEIGHT, width=WIDTH, **settings)  # type: ignore[arg-type]
    return folder / "rooms.mat", folder / "splits.mat"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """22 scenes, so that each of the ten types comes at least twice."""
    return render(tmp_path_factory.mktemp("rooms"), frames=43, frames_per_scene=2, test_fraction=0.3, workers=2)


# The same file -------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    alone, alone_splits = render(tmp_path / "alone")
    together, together_splits = render(tmp_path / "together", workers=2)
    assert sha256_of(alone) == sha256_of(together)
    assert sha256_of(alone_splits) == sha256_of(together_splits)


def test_another_seed_gives_another_file(tmp_path: Path) -> None:
    first, _ = render(tmp_path / "first", frames=2, frames_per_scene=1)
    second, _ = render(tmp_path / "second", frames=2, frames_per_scene=1, seed=6)
    assert sha256_of(first) != sha256_of(second)


def test_a_frame_does_not_depend_on_how_many_are_rendered(tmp_path: Path) -> None:
    few, _ = render(tmp_path / "few", frames=3)
    many, _ = render(tmp_path / "many", frames=6)
    with NyuFile(few) as short, NyuFile(many) as long:
        assert short.scenes == long.scenes[:3]
        for ours, theirs in zip(short.read(0, 3), long.read(0, 3), strict=True):
            np.testing.assert_array_equal(ours, theirs)


# The official layout -------------------------------------------------------------------------------------


def test_plain_h5py_finds_the_official_shapes_types_and_strings(rooms: tuple[Path, Path]) -> None:
    with h5py.File(rooms[0]) as file:
        assert file["images"].shape == (43, 3, WIDTH, HEIGHT)
        assert file["depths"].shape == file["rawDepths"].shape == (43, WIDTH, HEIGHT)
        assert (file["images"].dtype, file["depths"].dtype, file["rawDepths"].dtype) == ("u1", "<f4", "<f4")
        names = ["".join(chr(c[0]) for c in file[reference][()]) for reference in file["scenes"][0]]
        types = ["".join(chr(c[0]) for c in file[reference][()]) for reference in file["sceneTypes"][0]]
    assert [name.rsplit("_", 1)[0] for name in names] == types
    assert all(len(name.rsplit("_", 1)[1]) == 4 for name in names)
    assert set(types) == {kind.name for kind in ROOM_KINDS}
    assert [names.count(name) for name in dict.fromkeys(names)] == [2] * 21 + [1]


def test_splits_are_one_based_and_part_no_scene(rooms: tuple[Path, Path]) -> None:
    content = loadmat(rooms[1])
    numbers = np.concatenate([content["trainNdxs"].ravel(), content["testNdxs"].ravel()])
    assert sorted(numbers) == list(range(1, 44))
    with NyuFile(rooms[0]) as file:
        scenes = {
            split: {file.scenes[int(n) - 1] for n in content[f"{split}Ndxs"].ravel()} for split in ("train", "test")
        }
    assert not scenes["train"] & scenes["test"]


def test_test_scenes_come_from_many_types_and_leave_every_type_in_training(rooms: tuple[Path, Path]) -> None:
    splits = read_splits(rooms[1], 43)
    with NyuFile(rooms[0]) as file:
        scenes, types = file.scenes, file.scene_types
    test_scenes = {scenes[index] for index in splits["test"]}
    assert len(test_scenes) == round(0.3 * 22)
    # 7 of 22 scenes from ten types of two or three: no type gives both of two.
    assert len({scene.rsplit("_", 1)[0] for scene in test_scenes}) >= 6
    assert {types[index] for index in splits["train"]} == set(types)


# Depth ---------------------------------------------------------------------------------------------------


def test_every_depth_is_between_half_a_metre_and_ten(rooms: tuple[Path, Path]) -> None:
    with NyuFile(rooms[0]) as file:
        depth_m = file.read(0, 43).depth_m
    assert depth_m.min() >= 0.5
    assert depth_m.max() <= 10.0
    medians = np.median(depth_m, axis=(1, 2))
    # NYU has 2.7 m; here cameras look across the whole room, a metre farther.
    assert 3.2 < np.median(medians) < 4.2
    np.testing.assert_array_equal(depth_m * 4096, np.rint(depth_m * 4096))


def test_raw_depth_has_holes_of_zero_and_elsewhere_a_sensors_error(rooms: tuple[Path, Path]) -> None:
    with NyuFile(rooms[0]) as file:
        _, depth_m, raw_m = file.read(0, 43)
    valid = raw_m > 0
    assert np.isfinite(raw_m).all() and raw_m.min() == 0
    assert 0.08 < (~valid).mean() < 0.25
    assert not valid[:, 0].any() and not valid[:, -1].any()
    assert not valid[:, :, 0].any() and not valid[:, :, -1].any()
    # A Kinect's step is z² / (f b) / 8 = z² · 0.0029 / m; its noise is about half a step.
    error_m = np.abs(raw_m - depth_m)[valid]
    step_m = 0.0029 * depth_m[valid] ** 2
    assert (error_m < 4 * step_m).all()
    assert 0 < np.median(error_m / step_m) < 1


def rays64(camera: Intrinsics, pose: Pose) -> np.ndarray:
    """(H, W, 3) float64, depth along the view = 1, from the definition of a pinhole."""
    row, column = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    local = np.stack([(column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy, np.ones_like(row)], axis=-1)
    return local @ pose.axes


def room_depth(size: tuple[float, float, float], origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    planes = [(bound - origin[axis]) / rays[..., axis] for axis in range(3) for bound in (0.0, size[axis])]
    return np.where(np.array(planes) > 0, planes, np.inf).min(axis=0)


def box_depth(solid: Solid, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Each face in turn: where the ray crosses its plane, and whether that is inside the face."""
    turn = np.array(
        [[np.cos(solid.yaw), -np.sin(solid.yaw), 0], [np.sin(solid.yaw), np.cos(solid.yaw), 0], [0, 0, 1]]
    )
    local_origin, local = (origin - np.array(solid.centre)) @ turn, rays @ turn
    nearest = np.full(rays.shape[:2], np.inf)
    for axis in range(3):
        for side in (-1, 1):
            t = (side * solid.half[axis] - local_origin[axis]) / local[..., axis]
            point = local_origin + t[..., None] * local
            others = [k for k in range(3) if k != axis]
            inside = np.all([np.abs(point[..., k]) <= solid.half[k] for k in others], axis=0) & (t > 0)
            nearest = np.where(inside & (t < nearest), t, nearest)
    return nearest


def sphere_depth(solid: Solid, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    away = origin - np.array(solid.centre)
    a, b, c = (rays**2).sum(-1), 2 * rays @ away, away @ away - solid.half[0] ** 2
    with np.errstate(invalid="ignore"):
        t = (-b - np.sqrt(b * b - 4 * a * c)) / (2 * a)
    return np.where(np.isnan(t), np.inf, t)


def cone_depth(solid: Solid, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Walked along each ray in steps of 1 mm until inside, then bisected: slow, and nothing like the code."""
    bottom, top, half = solid.half

    def outside(t: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(origin + t[..., None] * rays - np.array(solid.centre), -1, 0)
        radius = bottom + (top - bottom) * (z + half) / (2 * half)
        return np.maximum(np.hypot(x, y) - radius, np.abs(z) - half)

    near = np.full(rays.shape[:2], np.inf)
    for step in np.arange(0.5, 4.0, 0.001):
        entered = (outside(np.full(rays.shape[:2], step)) <= 0) & np.isinf(near)
        near[entered] = step
    low, high = near - 0.001, near.copy()
    with np.errstate(invalid="ignore"):
        for _ in range(30):
            middle = (low + high) / 2
            inside = outside(middle) <= 0
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    return high


BOX = Solid(Kind.BOX, (2.6, 2.0, 0.6), (0.5, 0.3, 0.6), (0,) * FACES, yaw=0.7)
BALL = Solid(Kind.ELLIPSOID, (2.4, 1.9, 0.9), (0.45, 0.45, 0.45), (0,) * FACES)
LAMPSHADE = Solid(Kind.FRUSTUM, (2.3, 1.8, 0.9), (0.4, 0.2, 0.3), (0,) * FACES)
BUCKET = Solid(Kind.FRUSTUM, (2.3, 1.8, 0.6), (0.2, 0.4, 0.3), (0,) * FACES)


@pytest.mark.parametrize(
    ("solid", "oracle"),
    [(None, None), (BOX, box_depth), (BALL, sphere_depth), (LAMPSHADE, cone_depth), (BUCKET, cone_depth)],
    ids=["empty", "box", "ball", "lampshade", "bucket"],
)
def test_depth_is_that_of_the_closed_form_in_float64(solid: Solid | None, oracle) -> None:  # type: ignore[no-untyped-def]
    table = SolidTable.of([ROOM] if solid is None else [ROOM, solid])
    hits = see(table, CAMERA, POSE, ray_directions(CAMERA, POSE))
    rays = rays64(CAMERA, POSE)
    expected_m = room_depth((5.0, 4.0, 2.6), POSE.position, rays)
    if solid is not None:
        solid_m = oracle(solid, POSE.position, rays)
        # On a silhouette rounding decides whether the ray still meets the solid.
        assert 300 < (solid_m < expected_m).sum() < 3000
        assert ((hits.solid == 1) != (solid_m < expected_m)).sum() <= 6
        both = (hits.solid == 1) == (solid_m < expected_m)
        expected_m = np.minimum(expected_m, solid_m)
    else:
        both = np.ones_like(hits.solid, bool)
    np.testing.assert_allclose(hits.t[both], expected_m[both], rtol=2e-5)


def test_nyus_own_size_has_nyus_intrinsics_and_half_the_size_the_same_field_of_view() -> None:
    full, half = nyu_intrinsics(480, 640), nyu_intrinsics(240, 320)
    assert (full.fx, full.fy, full.cx, full.cy) == (518.858, 519.470, 325.582, 253.736)
    # The left edge of the picture is half a pixel left of pixel 0's centre.
    assert (-0.5 - half.cx) / half.fx == pytest.approx((-0.5 - full.cx) / full.fx)
    assert (239.5 - half.cy) / half.fy == pytest.approx((479.5 - full.cy) / full.fy)


# Furniture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ROOM_KINDS, ids=lambda kind: kind.name)
def test_furniture_stays_inside_the_room_and_rests_on_something(kind) -> None:  # type: ignore[no-untyped-def]
    scene = furnished(kind, np.random.default_rng(11))
    corners = scene.solids.corners[1:]
    assert len(corners) > 20
    assert corners.min() > -1e-4
    assert (corners.max(axis=(0, 1)) < np.array(scene.size) + 1e-4).all()
    low, high = corners.min(axis=1), corners.max(axis=1)
    size = np.array(scene.size)
    for number in range(len(low)):
        at_wall = (low[number] < 0.1).any() or (high[number] > size - 0.1).any()
        touching = ((low[number] <= high + 0.01) & (high[number] >= low - 0.01)).all(axis=1)
        assert at_wall or touching.sum() > 1, f"solid {number + 1} hangs in the air"


# Nothing by halves ---------------------------------------------------------------------------------------


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out"
    out.mkdir()
    script.write_text(
        "from pathlib import Path\n"
        "from pipeline.data.rooms import render_rooms\n"
        "if __name__ == '__main__':\n"
        f"    out = Path({str(out)!r})\n"
        "    render_rooms(out / 'r.mat', out / 's.mat', frames=400, frames_per_scene=2, test_fraction=0.2,\n"
        "                 seed=1, height=60, width=80, workers=2)\n"
    )
    process = subprocess.Popen([sys.executable, script], start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 20_000 for path in out.glob(".r.mat.partial-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers as well
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in stderr
    assert list(out.iterdir()) == []


def rendering(folder: Path, prelude: str = "") -> subprocess.Popen[str]:
    """A process that renders into folder/out with two more and says what goes wrong; all three run `prelude`."""
    script, out = folder / "script.py", folder / "out"
    out.mkdir()
    script.write_text(
        "from pathlib import Path\n"
        "from pipeline.data.rooms import render_rooms, views\n"
        "from pipeline.errors import reported_to_user\n"
        f"{prelude}\n"
        "if __name__ == '__main__':\n"
        f"    out = Path({str(out)!r})\n"
        "    with reported_to_user('fetch'):\n"
        "        render_rooms(out / 'r.mat', out / 's.mat', frames=400, frames_per_scene=2, test_fraction=0.2,\n"
        "                     seed=1, height=60, width=80, workers=2)\n"
    )
    return subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)


def last_line(process: subprocess.Popen[str]) -> str:
    """What a failed process said after its progress bar, which is no traceback."""
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    return stderr.splitlines()[-1]


def test_a_killed_renderer_ends_the_rendering_in_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = rendering(tmp_path)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 20_000 for path in tmp_path.glob("out/.r.mat.partial-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    renderers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    assert len(renderers) == 2
    renderers[0].kill()
    assert last_line(process) == (
        "error: fetch: rooms: one of 2 rendering processes was killed, perhaps for want of memory; "
        "free some and start again"
    )
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.parametrize(
    ("prelude", "message"),
    [
        ("views._TRIES = 0", "error: fetch: rooms: a .* has no free place for the camera; choose another seed"),
        (
            "views._PREVIEW = views.nyu_intrinsics(10**6, 10**6)",
            "error: fetch: rooms: memory is short for 2 rendering processes; free some and start again",
        ),
    ],
    ids=["no place", "no memory"],
)
def test_a_renderer_that_raises_ends_the_rendering_in_one_line_and_leaves_nothing_behind(
    tmp_path: Path, prelude: str, message: str
) -> None:
    assert re.fullmatch(message, last_line(rendering(tmp_path, prelude)))
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"frames_per_scene": 0}, "frames_per_scene is 0"),
        ({"frames": 2}, "one scene"),
        ({"test_fraction": 0.0}, "test_fraction is 0.0"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_make_no_set_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, int | float], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        render(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []
