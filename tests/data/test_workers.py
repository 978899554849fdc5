"""Shards made by a Ray cluster of two nodes, as `ray start` makes them, one of which is lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.data import shards
from pipeline.data.augment import Augmentation
from pipeline.data.folder import FolderFrames
from pipeline.data.shard_jobs import Advance, Done, Recipe, ShardJob, WorkFolder, write_shards_by_jobs
from pipeline.data.shards import write_shards
from pipeline.data.workers import ClusterWorkers, LocalWorkers, workers_at
from pipeline.errors import PipelineError
from tests.data.own_images import fetched, row_of, write_csv
from tests.tracking.toy import wait_until

HEIGHT, WIDTH = 480, 640
FRAMES = 80
RECIPE = Recipe(size=(32, 64), border=3, augmentation=Augmentation(0.5, 0.02), copies=1, seed=7)
FACTS = {"source": "folder"}


class Node:
    """One `ray start`, which ends with all its processes."""

    def __init__(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--node-ip-address=127.0.0.1", "--block"]
        # Ray's sockets need a short path.
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp"}
        self._process = subprocess.Popen(
            [*command, "--num-cpus=1", "--object-store-memory=100000000", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def is_making_a_shard(self) -> bool:
        """Ray calls its processes after what they do."""
        processes = psutil.Process(self._process.pid).children(recursive=True)
        return any("_shard_file" in " ".join(process.cmdline()) for process in processes)

    def kill(self) -> None:
        """With SIGKILL, as a power cut does."""
        if self._process.poll() is None:
            first = psutil.Process(self._process.pid)
            for process in [first, *first.children(recursive=True)]:
                process.kill()
            self._process.wait()


def answers(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def cluster() -> Iterator[tuple[str, Node]]:
    """The address of the cluster, and the node that is not its head."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.lock")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = Node("--head", f"--port={port}", "--include-dashboard=false")
    other = None
    try:
        wait_until(lambda: answers(port), 60, "the head answers")
        other = Node(f"--address=127.0.0.1:{port}")
        yield f"127.0.0.1:{port}", other
    finally:
        for node in (other, head):
            if node is not None:
                node.kill()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FolderFrames]:
    monkeypatch.setattr(shards, "SHARD_BYTES", 8 * 32 * 64 * 5 + shards.HEADER_BYTES)
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for kind in range(2):
        Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{kind}.png")
        depth_mm = random.integers(0, 9000, (HEIGHT, WIDTH)).astype(np.uint16)
        Image.fromarray(depth_mm).save(folder / f"{kind}_depth.png")
    for index in range(FRAMES):
        for end in (".png", "_depth.png") if index > 1 else ():
            (folder / f"{index}{end}").hardlink_to(folder / f"{index % 2}{end}")
        rows.append(row_of(str(index), "test" if index % 5 == 4 else "train", f"room_{index}"))
    with FolderFrames(fetched(write_csv(folder / "list.csv", *rows))) as frames:
        yield frames


class LosingOne(ClusterWorkers):
    """Loses a machine while it makes a shard."""

    def __init__(self, address: str, node: Node) -> None:
        super().__init__(address)
        self._node = node
        self.is_lost = False

    def do(self, jobs: Iterator[ShardJob], work: WorkFolder, done: Done, advance: Advance) -> None:
        watch = threading.Thread(target=self._lose, daemon=True)

        def counted(job: ShardJob) -> None:
            done(job)
            if not watch.ident:
                wait_until(lambda: self._machines() == 2, 60, "the second node has joined")
                watch.start()

        super().do(jobs, work, counted, advance)

    def _lose(self) -> None:
        while not self._node.is_making_a_shard():
            time.sleep(0.01)
        self._node.kill()
        self.is_lost = True

    def _machines(self) -> int:
        import ray

        return sum(node["Alive"] for node in ray.nodes())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cluster_that_loses_a_node_makes_the_same_shards_and_a_bad_frame_is_named(
    source: FolderFrames, tmp_path: Path, cluster: tuple[str, Node]
) -> None:
    address, other = cluster
    write_shards(source, source.splits, tmp_path / "streamed", **vars(RECIPE), facts=FACTS)
    workers = LosingOne(address, other)
    write_shards_by_jobs(
        source, source.splits, tmp_path / "made", RECIPE, work=tmp_path / "work", workers=workers, facts=FACTS
    )
    assert workers.is_lost
    assert contents(tmp_path / "made") == contents(tmp_path / "streamed")
    assert len(contents(tmp_path / "made")) == 16 + 2 + 1

    (tmp_path / "images" / "30.png").unlink()
    with pytest.raises(PipelineError, match=r"list\.csv, line 32: .*30\.png does not exist \(on .*\)") as caught:
        write_shards_by_jobs(
            source,
            source.splits,
            tmp_path / "again",
            RECIPE,
            work=tmp_path / "work",
            workers=workers_at(address),
            facts=FACTS,
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "again").exists()
    # What the cluster had done before is gone on from here.
    kept = {path.name for path in (tmp_path / "work" / "shards").iterdir()}
    assert kept


def test_an_address_at_which_nothing_answers_is_told_with_the_parameter(
    source: FolderFrames, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.lock")
    told = r"preprocess\.cluster: no Ray cluster answers at 127\.0\.0\.1:1: Connection refused"
    with pytest.raises(PipelineError, match=told) as caught:
        write_shards_by_jobs(
            source,
            source.splits,
            tmp_path / "made",
            RECIPE,
            work=tmp_path / "work",
            workers=workers_at("127.0.0.1:1"),
            facts=FACTS,
        )
    assert "\n" not in str(caught.value)


def test_local_is_the_processors_of_this_machine() -> None:
    assert isinstance(workers_at("local"), LocalWorkers)
    assert isinstance(workers_at("auto"), ClusterWorkers)
