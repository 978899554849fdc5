"""Stage `preprocess` over a folder of images, as a process that is interrupted, killed and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from pipeline.data import shards
from pipeline.data.augment import Augmentation
from pipeline.data.folder import FolderFrames
from pipeline.data.lists import write_list
from pipeline.data.shards import write_shards
from pipeline.data.source import describe_source
from tests.data.own_images import row_of, write_csv
from tests.stages import small_shards
from tests.tracking.toy import clean_environment, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMES = 200
SIZE = (48, 64)
LEISURELY_S = 0.03
"""A frame of a stage that a signal must find at work, however quick the machine is."""

AUGMENTATION = Augmentation(0.5, 0.02, zoom=1.2, colour=0.5)


class Work:
    """A working copy with a fetched folder of images, in which the stage runs as DVC starts it."""

    def __init__(self, root: Path, store: Path, images: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        for name in ("pipeline", "stages", "tests", "dvc.yaml"):
            (root / name).symlink_to(REPOSITORY / name)
        shutil.copy(store, root / "mlflow.db")
        raw = root / "data" / "raw"
        raw.mkdir(parents=True)
        shutil.copy(images / "frames.csv", raw)
        describe_source(raw / "source.json", "folder")
        self.params: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
        self.params["preprocess"] |= {"height": 32, "width": 64, "val_fraction": 0.0}
        self.params["augment"] |= {"at": "shards", "copies": 1, **asdict(AUGMENTATION)}

    def start(self, frame_s: float = 0.0) -> subprocess.Popen[str]:
        """frame_s: seconds that a frame takes at least."""
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.params), encoding="utf-8")
        environment = clean_environment() | {
            "DVC_ROOT": str(self.root),
            "OMP_NUM_THREADS": "1",
            "DEPTH_FRAME_S": str(frame_s),
        }
        # DVC deletes a stage's outputs before it runs.
        shutil.rmtree(self.root / "data" / "shards", ignore_errors=True)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.stages.small_shards"],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def started(self, whole: int) -> subprocess.Popen[str]:
        """The stage with so many shards done, at work."""
        process = self.start(LEISURELY_S)
        wait_until(lambda: len(self.whole()) >= whole or process.poll() is not None, 90, "shards are done")
        assert process.poll() is None, process.communicate()[0]
        return process

    def run(self, status: int = 0) -> str:
        process = self.start()
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        return output

    def whole(self) -> dict[str, int]:
        """Shards that are noted as done, by name with their number on the file system."""
        notes = (self.root / ".state" / "preprocess").glob("*/notes/*.json")
        paths = [note.parents[1] / "shards" / note.stem for note in notes]
        return {path.name: path.stat().st_ino for path in paths if path.exists()}

    def made(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.root / "data" / "shards").iterdir()}

    def numbers(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in (self.root / "data" / "shards").iterdir()}


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    servers = [p for p in psutil.Process(process.pid).children() if "forkserver" in " ".join(p.cmdline())]
    return [worker for server in servers for worker in server.children()]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for kind in range(4):
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / f"{kind}.png")
        depth_mm = random.integers(0, 9000, SIZE).astype(np.uint16)
        Image.fromarray(depth_mm).save(folder / f"{kind}_depth.png")
    rows = []
    for index in range(4, FRAMES):
        for end in (".png", "_depth.png"):
            (folder / f"{index}{end}").hardlink_to(folder / f"{index % 4}{end}")
        rows.append(row_of(str(index), "test" if index % 5 == 4 else "train", f"room_{index}"))
    listed = write_csv(folder / "list.csv", *rows)
    write_list(listed, folder / "frames.csv", problems=folder / "problems.csv")
    return folder


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the streaming writer makes of them."""
    folder = tmp_path_factory.mktemp("streamed")
    with pytest.MonkeyPatch.context() as patch, FolderFrames(images / "frames.csv") as source:
        patch.setattr(shards, "SHARD_BYTES", small_shards.FRAMES * 32 * 64 * 5 + shards.HEADER_BYTES)
        write_shards(
            source,
            source.splits,
            folder,
            size=(32, 64),
            border=8,
            augmentation=AUGMENTATION,
            copies=1,
            seed=0,
            facts={"source": "folder", "split": "official", "trained_on": "official train split"},
        )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def work(tmp_path: Path, empty_store: Path, images: Path) -> Work:
    return Work(tmp_path / "work", empty_store, images)


ENDS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}


def test_after_every_end_work_goes_on_from_the_whole_shards(work: Work, expected: dict[str, bytes]) -> None:
    before: dict[str, int] = {}
    for number, status in ENDS.items():
        process = work.started(whole=len(before) + 2)
        workers = workers_of(process)
        assert workers
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)  # as Ctrl-C in a terminal does
        output, _ = process.communicate(timeout=60)
        assert process.returncode == status, output
        assert "Traceback" not in output
        if number != signal.SIGKILL:
            assert output.strip().splitlines()[-1].startswith("error: preprocess: ")
        psutil.wait_procs(workers, timeout=10)
        assert not [worker for worker in workers if worker.is_running()]
        assert not (work.root / "data" / "shards").exists()
        assert before.items() <= work.whole().items()
        before = work.whole()
    work.run()
    assert work.made() == expected
    assert {name: work.numbers()[name] for name in before} == before, "they were moved, not made again"
    assert not work.whole()


def test_a_cluster_is_refused_for_frames_in_one_file(work: Work) -> None:
    from tests.data.test_source import fill_with_mat

    shutil.rmtree(work.root / "data" / "raw")
    (work.root / "data" / "raw").mkdir()
    fill_with_mat(work.root / "data" / "raw")
    (work.root / "data" / "raw" / "source.json").write_text(json.dumps({"source": "file"}), encoding="utf-8")
    work.params["preprocess"]["cluster"] = "127.0.0.1:6379"
    output = work.run(status=1)
    assert (
        "preprocess.cluster is 127.0.0.1:6379, but file is one file that is read in order; set it to local"
        in output
    )
