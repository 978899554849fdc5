"""The stage's end of the pipe to the process that sends what it tells (`pipeline.tracking.sender`)."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError, signals_postponed
from pipeline.tracking.execution import current_execution
from pipeline.tracking.kept import Entry, Kept, outbox_folder, warn
from pipeline.tracking.run import StageRun, error_tag, now_ms, status_of
from pipeline.tracking.table import table_of

if TYPE_CHECKING:
    import pandas as pd

CODE = Path(__file__).resolve().parents[2]
REQUESTS = ("open", "finished_runs", "stored_files", "close")
"""Calls that are for the process itself; the others are for the store."""


class SenderEnded(PipelineError):
    """The process that speaks to MLflow has ended before its time, for want of memory perhaps."""


class Sender:
    """A process that sends what one stage tells, as the stage sees it. It is a `Channel`.

    What the process has not yet said to be sent or kept is remembered here. If it dies, that and all that follows
    is kept on disk.
    """

    def __init__(self) -> None:
        """Start the process. It needs seconds to be ready, during which the stage may do something else."""
        # The code that the stage itself runs, wherever it works: DVC runs experiments in copies.
        path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
        # Told from here, since the stage may have ended before the process could look for itself.
        stage = [str(os.getpid()), json.dumps(asdict(current_execution(os.getpid())))]
        with _signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.tracking.sender", *stage],
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._run_id = self._store = ""
        self._told: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._unsettled: deque[Entry] = deque()
        self._number = 0
        self._kept: Kept | None = None
        self._failure: BaseException | None = None
        self._reader = threading.Thread(target=self._read, name="sender-answers", daemon=True)
        self._writer = threading.Thread(target=self._write, name="sender-calls", daemon=True)
        self._reader.start()
        self._writer.start()

    def open(self, stage: str, params: Mapping[str, Any], resume: str | None = None) -> PipedRun:
        """The run of the present execution, once it is open. Raises `PipelineError` if the store cannot be."""
        tracking = params["tracking"]
        opening = {"stage": stage, "experiment": tracking["experiment"], "params": params}
        opening |= {"group": tracking["group"], "resume": resume}
        try:
            found = self.ask({"call": "open", "opening": opening})
        except (PipelineError, OSError):
            self.dismiss()
            self._process.wait()
            raise
        except BaseException as error:  # Ctrl-C, which the process will hear of once it has opened the run
            self.put({"call": "tags", "pairs": [("error", error_tag(error))]})
            self.put({"call": "status", "status": status_of(error), "end_time": now_ms()})
            self.dismiss()
            raise
        self._run_id, self._store = found["run_id"], found["store"]
        return PipedRun(self, found["run_id"], found["tags"], stage, found["began_ms"])

    def put(self, entry: Entry) -> None:
        self._told.put(entry)

    def ask(self, question: Entry) -> dict[str, Any]:
        """Wait for the answer. Raises what the process tells as an error, and `SenderEnded` if it tells nothing."""
        self._told.put(question)
        answer = self._answers.get()
        while answer is not None and answer["to"] != question["call"]:
            answer = self._answers.get()  # that was to one who does not wait any more
        if answer is None:
            self._answers.put(None)  # for whoever asks next
            status = self._process.wait()
            raise SenderEnded(f"the process that speaks to MLflow has ended before its time (status {status})")
        if "error" in answer:
            raise PipelineError(answer["error"])
        if "errno" in answer:
            raise OSError(answer["errno"], answer["strerror"], answer["filename"])
        return answer

    def close(self) -> None:
        """Wait until everything is sent or kept and the process has ended. Raises `OSError` if it cannot be.

        After the last stage it goes on by itself: it has to wait for what DVC notes when the stage has ended.
        """
        goes_on = False
        with signals_postponed():
            try:
                goes_on = self.ask({"call": "close"})["goes_on"]
            except SenderEnded:
                pass  # what it has not settled is kept below
            except OSError as error:
                self._failure = error
                self._unsettled.clear()
            self.dismiss()
            try:
                self._keep_unsettled()
            except OSError as error:
                self._failure = error
            if not goes_on:
                self._process.wait()
            if self._kept is not None:
                self._kept.release()
        if self._failure is not None:
            raise self._failure

    def dismiss(self) -> None:
        """End the process as soon as it has done what it was told."""
        self._told.put(None)
        self._writer.join()
        with contextlib.suppress(BrokenPipeError):
            self._in.close()

    @property
    def process(self) -> int:
        """Its number, for who measures what it costs."""
        return self._process.pid

    def _read(self) -> None:
        for line in self._out:
            answer = json.loads(line)
            if answer["to"] == "store":
                while self._unsettled and self._unsettled[0]["number"] <= answer["settled"]:
                    self._unsettled.popleft()
            else:
                self._answers.put(answer)
        self._answers.put(None)

    def _write(self) -> None:
        while (entry := self._told.get()) is not None:
            try:
                self._tell(entry)
            except Exception as error:  # raised by `close`; what comes next may still be sent or kept
                if self._failure is None:
                    warn(f"something that run {self._run_id} is told is lost: {error}")
                self._failure = error

    def _tell(self, entry: Entry) -> None:
        if entry["call"] not in REQUESTS:
            self._number += 1
            entry = entry | {"number": self._number}
            self._unsettled.append(entry)
        try:
            self._in.write(json.dumps(entry).encode() + b"\n")
            self._in.flush()
        except BrokenPipeError:
            self._keep_unsettled()

    def _keep_unsettled(self) -> None:
        """Take over from the process, which has ended."""
        self._reader.join()  # it has read all that the process has said
        if not self._unsettled or not self._run_id:
            return
        if self._kept is None:
            self._kept = Kept(outbox_folder() / self._run_id, self._store, self._run_id)
            warn(
                f"the process that speaks to MLflow has ended before its time; what run {self._run_id} is told "
                f"is kept in {self._kept.folder} and sent at the next start, or by `depth sync`"
            )
        while self._unsettled:
            entry = self._unsettled[0]
            self._kept.add({key: value for key, value in entry.items() if key != "number"})
            self._unsettled.popleft()


class PipedRun(StageRun):
    """The run of the present execution, as the stage sees it that works in it."""

    def __init__(self, sender: Sender, run_id: str, tags: Mapping[str, str], stage: str, began_ms: int) -> None:
        super().__init__(sender, run_id, tags, stage, began_ms)
        self.sender = sender

    def finished_runs(self, experiment: str) -> pd.DataFrame:
        """The table of `compare.finished_rows`. Raises `PipelineError` if the store does not answer."""
        found = self.sender.ask({"call": "finished_runs", "experiment": experiment})
        return table_of(found["rows"])

    def stored_files(self, run_id: str, names: Sequence[Path], folder: Path) -> list[Path | None]:
        """Copies of what the pipeline left in a run of the store, in `folder`; None for what it has not.

        names: where the files lie in the repository. Raises `PipelineError` if the store does not answer.
        """
        question = {"call": "stored_files", "run_id": run_id, "folder": str(folder)}
        found = self.sender.ask(question | {"names": [str(name) for name in names]})
        return [None if path is None else Path(path) for path in found["paths"]]


_started: Sender | None = None


def start_sender() -> None:
    """Let the process for `stage_run` start already, while the stage imports what else it needs."""
    global _started
    _started = Sender()


def dismiss_sender() -> None:
    """End a process that was started and is not needed after all: another process will do the stage's work."""
    if _started is not None:
        sender = take_sender()
        sender.put({"call": "close"})  # else it would take the stage for dead
        sender.dismiss()


def take_sender() -> Sender:
    """The process that was started, for the first who asks; a new one for everybody else."""
    global _started
    sender, _started = _started or Sender(), None
    return sender


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started in the block is deaf to what ends the stage: it has to tell of that end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
