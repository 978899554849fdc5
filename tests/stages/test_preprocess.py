"""Stage `preprocess` on labelled files that are good and on some that are not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from pipeline import paths
from pipeline.data.nyu import NyuWriter, pack_frame, write_splits
from pipeline.data.shards import ShardSet
from pipeline.data.source import describe_source
from pipeline.errors import reported_to_user
from stages import preprocess

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMES, HEIGHT, WIDTH = 12, 64, 128
RANDOM = np.random.default_rng(0)
RGB_U8 = RANDOM.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
DEPTH_M = RANDOM.uniform(0.5, 10, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy that the fetch stage has filled."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    content["preprocess"] |= {"height": 32, "width": 64}
    Path("params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    paths.RAW.mkdir(parents=True)
    write_frames(DEPTH_M)
    write_splits(paths.RAW_SPLITS, {"train": list(range(9)), "test": [9, 10, 11]})
    describe_source(paths.RAW_SOURCE, "file")
    return tmp_path


def write_frames(depth_m: np.ndarray) -> None:
    with NyuWriter(paths.RAW_MAT, FRAMES, (HEIGHT, WIDTH)) as writer:
        for index in range(FRAMES):
            packed = pack_frame(RGB_U8[index], depth_m[index], depth_m[index])
            writer.append(packed, f"attic_{index // 3:04d}", "attic")


def test_the_stage_writes_block_means_of_images_and_depths_and_reads_nothing_else(root: Path) -> None:
    with h5py.File(paths.RAW_MAT, "a") as file:
        file["rawDepths"].id.write_direct_chunk((2, 0, 0), b"damaged")
    preprocess.main()
    test = ShardSet(paths.SHARDS, "test")
    inside = RGB_U8[9:, 8:-8, 8:-8].astype(float).reshape(3, 24, 2, 56, 2, 3).mean(axis=(2, 4))
    assert np.abs(test.rgb_u8[:][..., 4:-4, 4:-4].numpy() - inside.transpose(0, 3, 1, 2)).max() <= 0.5001
    means_mm = 1000 * DEPTH_M[9:, 8:-8, 8:-8].astype(float).reshape(3, 24, 2, 56, 2).mean(axis=(2, 4))
    assert np.abs(test.depth_mm[:][:, 0, 4:-4, 4:-4].numpy() - means_mm).max() <= 0.51
    assert {frame.scene for frame in test.frames} == {"attic_0003"}


def damage_a_chunk() -> None:
    with h5py.File(paths.RAW_MAT, "a") as file:
        file["images"].id.write_direct_chunk((7, 0, 0, 0), b"damaged")


def spoil_a_depth() -> None:
    depth_m = DEPTH_M.copy()
    depth_m[7, 3, 4] = np.nan
    write_frames(depth_m)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_a_chunk, "nyu_depth_v2_labeled.mat: images, frames 7..7 (from 0) cannot be read"),
        (spoil_a_depth, "nyu_depth_v2_labeled.mat: depths, frame 7 (from 0): nan m is no depth"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_no_shard(
    root: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[], None], told: str
) -> None:
    damage()
    with pytest.raises(SystemExit) as left, reported_to_user("preprocess"):
        preprocess.main()
    assert left.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert told in lines[0]
    assert not paths.SHARDS.exists() or list(paths.SHARDS.iterdir()) == []
