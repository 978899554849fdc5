"""Those who make shards: processes of this machine, or the machines of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save

from pipeline.data.frames import cores
from pipeline.data.shard_jobs import Advance, Done, ShardJob, Workers, WorkFolder
from pipeline.data.shards import shard_entry
from pipeline.errors import PipelineError
from pipeline.files import written_whole
from pipeline.ray_cluster import connected

POLL_S = 0.2
"""How often the progress bar moves."""
TRIES = 2
"""How often a shard is begun whose process ends before its time."""
CLUSTER_RETRIES = 3
"""How often Ray gives the shard of a lost machine to another."""
PACKAGE = Path(__file__).resolve().parents[1]


def workers_at(cluster: str) -> Workers:
    """cluster: `local`, or the address of a Ray cluster."""
    if cluster != "local":
        return ClusterWorkers(cluster)
    return LocalWorkers(cores())


class LocalWorkers:
    """Processes of this machine, each with one shard in memory, however many there are to make."""

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def do(self, jobs: Iterator[ShardJob], work: WorkFolder, done: Done, advance: Advance) -> None:
        tries: Counter[str] = Counter()
        while True:
            with _Pool(self._processes, work) as pool:
                lost = pool.do(jobs, done, advance)
            if not lost:
                return
            tries.update(job.name for job in lost)
            name, times = tries.most_common(1)[0]
            if times == TRIES:
                raise PipelineError(
                    f"a process ended before its time while {name} was made, and again when it was made anew: "
                    "killed, or memory is short; the next start goes on from the shards that are done"
                )
            told = "a process ended before its time (killed, or memory is short); its shard is made again"
            print(f"\nwarning: {told}", file=sys.stderr)
            jobs = chain(lost, jobs)


class _Pool:
    """Processes that leave Ctrl-C to this one, and end with it or with the block.

    They are forked from one that has imported PyTorch and done nothing else, because this one has threads.
    """

    def __init__(self, processes: int, work: WorkFolder) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        # Frames done of the job in each slot, and last whether all are to stop. There is no lock: a process that is
        # killed would keep it.
        self._board = context.RawArray("q", processes + 1)
        self._free = set(range(processes))
        self._work = work
        self._pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(self._board,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board[-1] = 1
        self._pool.shutdown(cancel_futures=True)

    def do(self, jobs: Iterator[ShardJob], done: Done, advance: Advance) -> list[ShardJob]:
        """Do the jobs, one a process at a time. Returns those to do again: a process has ended before its time."""
        flying: dict[Future[None], tuple[ShardJob, int]] = {}
        while True:
            while self._free and (job := next(jobs, None)) is not None:
                try:
                    future = self._submit(job, slot := self._free.pop())
                except BrokenProcessPool:
                    return [job, *(job for job, _ in flying.values())]
                flying[future] = job, slot
            if not flying:
                return []
            ready, _ = wait(flying, POLL_S, FIRST_COMPLETED)
            broken = False
            for future in ready:
                if isinstance(future.exception(), BrokenProcessPool):
                    broken = True
                    continue
                future.result()
                job, slot = flying.pop(future)
                self._board[slot] = 0
                self._free.add(slot)
                done(job)
            if broken:
                return [job for job, _ in flying.values()]
            advance(sum(self._board[:-1]))

    def _submit(self, job: ShardJob, slot: int) -> Future[None]:
        # Processes start here, and are deaf to Ctrl-C before they can say so themselves.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return self._pool.submit(_make, job, self._work, slot)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


_board: Any = None


class _Stopped(Exception):
    """Nobody waits for the shard any more."""


def _begin(board: Any) -> None:
    """In each process, first of all."""
    global _board
    _board = board
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _make(job: ShardJob, work: WorkFolder, slot: int) -> None:
    def advance(frames: int) -> None:
        if _board[-1]:
            raise _Stopped
        _board[slot] = frames

    try:
        work.save(job, *job.tensors(advance))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise PipelineError(f"there is not enough memory to make {job.name}") from error
        raise


class ClusterWorkers:
    """The machines of a Ray cluster. They read the images where they are and send shards back, written here.

    A machine needs the packages of this project, and the images at the same paths; this project's code travels.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def do(self, jobs: Iterator[ShardJob], work: WorkFolder, done: Done, advance: Advance) -> None:
        code = {"py_modules": [str(PACKAGE)]}
        with connected(self._address, "preprocess.cluster", runtime_env=code) as ray:
            task = ray.remote(_shard_file).options(
                num_cpus=1, max_retries=CLUSTER_RETRIES, scheduling_strategy="SPREAD"
            )
            flying: dict[Any, ShardJob] = {}
            while True:
                # A finished shard waits for this process while a processor begins the next.
                limit = 1 + int(ray.cluster_resources().get("CPU", 0))
                while len(flying) < limit and (job := next(jobs, None)) is not None:
                    flying[task.remote(job)] = job
                if not flying:
                    return
                ready, _ = ray.wait(list(flying), timeout=POLL_S)
                for reference in ready:
                    job = flying.pop(reference)
                    _write(job, _answer(ray, reference, job), work)
                    done(job)
                advance(0)


def _shard_file(job: ShardJob) -> np.ndarray:
    """The bytes of the shard's file. (An array: the driver then reads them where the object store has them.)"""
    torch.set_num_threads(1)
    try:
        rgb_u8, depth_mm = job.tensors()
    except PipelineError as error:
        raise PipelineError(f"{error} (on {platform.node()}, a machine of the cluster)") from error
    return np.frombuffer(save({"rgb_u8": rgb_u8, "depth_mm": depth_mm}), np.uint8)


def _answer(ray: Any, reference: Any, job: ShardJob) -> np.ndarray:
    try:
        file_u8: np.ndarray = ray.get(reference)
        return file_u8
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PipelineError):
            raise error.cause from None
        last = str(error).strip().rpartition("\n")[2]
        raise PipelineError(f"a machine of the cluster could not make {job.name}: {last}") from error
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        raise PipelineError(f"the cluster could not make {job.name}: {first}") from error


def _write(job: ShardJob, file_u8: np.ndarray, work: WorkFolder) -> None:
    path = work.shards / job.name
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(file_u8.data)
    work.note(job, shard_entry(path, len(job.frames)))
