"""The process beside a stage that sends what it tells: `python -m pipeline.tracking.sender`.

To import MLflow and to speak to its store takes seconds of processor time, which the stage and its training do not
wait for. JSON lines come in from the stage (`pipeline.tracking.pipe` is the other end): what is to be opened, then
calls for the store. JSON lines go out: the run, errors, and the numbers of the calls that are done with. When the
stage ends without having said how, by kill -9 say, it is said here; so is what DVC notes when the last has ended.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.tracking.execution import Execution

if TYPE_CHECKING:
    import mlflow

WATCH_S = 1.0
"""How often it is seen whether the stage lives: its children may hold the pipe open without knowing of it."""


def main() -> None:
    stage, execution = int(sys.argv[1]), Execution(**json.loads(sys.argv[2]))
    answers, one_at_a_time = os.dup(1), threading.Lock()
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(to: str, content: dict[str, Any]) -> None:
        with one_at_a_time, contextlib.suppress(BrokenPipeError):  # the stage has ended
            os.write(answers, json.dumps({"to": to} | content).encode() + b"\n")

    later = send_for(stage, execution, told_by(stage), answer)
    if later is not None:
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2, answers):  # neither the stage nor who reads what DVC prints waits for what comes now
            os.dup2(silence, stream)
        later()
    os._exit(0)  # all is sent or kept; MLflow's own leave-taking takes half a second


def told_by(stage: int) -> Iterator[dict[str, Any]]:
    """The lines from the stage until it closes the pipe or ends."""
    rest = b""
    while True:
        ready, _, _ = select.select([0], [], [], WATCH_S)
        if ready:
            read = os.read(0, 1 << 16)
            if not read:
                return
            *lines, rest = (rest + read).split(b"\n")
            yield from map(json.loads, lines)
        elif os.getppid() != stage:
            return


def send_for(
    stage: int,
    execution: Execution,
    told: Iterator[dict[str, Any]],
    answer: Callable[[str, dict[str, Any]], None],
) -> Callable[[], None] | None:
    """Open the run that the stage asks for, and send what it tells until it has ended; return what comes later.

    stage: number of its process, part of `execution`. answer: takes the call that is answered, and the answer.
    """
    # The imports take a quarter longer with the collector at work, and a fifth with pandas, without which MLflow
    # does where it is not installed.
    gc.disable()
    sys.modules["pandas"] = None  # type: ignore[assignment]
    from pipeline.tracking.compare import finished_rows
    from pipeline.tracking.lockfile import send_lock, written_at
    from pipeline.tracking.opening import Opening, close_unopened, open_run, silent_end
    from pipeline.tracking.records import STAGES
    from pipeline.tracking.store import open_store, shown_uri
    from pipeline.tracking.system import SystemMetrics

    store: Future[mlflow.MlflowClient] = Future()
    try:  # at once: the stage is still at its own imports
        store.set_result(open_store())
    except (PipelineError, OSError) as error:
        store.set_exception(error)
    asked = next(told, None)
    if asked is None:
        close_unopened(execution, os.environ.get("DVC_STAGE", "?"))
        return None
    if asked["call"] == "close":  # the stage does not need this process
        return None
    opening = Opening(**asked["opening"], process=stage)
    try:
        run = open_run(opening, store.result, settled=lambda number: answer("store", {"settled": number}))
    except (PipelineError, OSError) as error:
        answer("open", failure(error))
        return None
    found = {"run_id": run.run_id, "tags": run.tags, "began_ms": run.began_ms, "store": shown_uri()}
    answer("open", found)
    gc.freeze()  # what is there now stays, and need not be looked at again
    gc.enable()

    system, status = SystemMetrics(run.log_points, run.began_ms), None
    for entry in told:
        match entry["call"]:
            case "close":
                break
            case "finished_runs":
                try:
                    answer("finished_runs", {"rows": finished_rows(entry["experiment"])})
                except PipelineError as error:
                    answer("finished_runs", failure(error))
            case "stored_files":
                try:
                    answer("stored_files", {"paths": stored_files(store.result(), **entry)})
                except (PipelineError, OSError) as error:
                    answer("stored_files", failure(error))
            case call:
                if call == "status":
                    status = entry["status"]
                run.channel.put(entry)
    system.stop()
    try:
        if status:
            run.close(None)
        else:
            run.set_tags({"error": silent_end(opening.stage, "kill -9")})
            run.close("KILLED")
    except OSError as error:
        answer("close", failure(error))
        return None
    goes_on = opening.stage == STAGES[-1] and status == "FINISHED" and "DVC_STAGE" in os.environ
    written = written_at()
    answer("close", {"goes_on": goes_on})
    return functools.partial(send_lock, run.run_id, execution.command, written) if goes_on else None


def stored_files(
    client: mlflow.MlflowClient, run_id: str, names: list[str], folder: str, **_: Any
) -> list[str | None]:
    from pipeline.tracking.stored_runs import StoredRun

    files = StoredRun(run_id, run_id, client).files(Path(folder))
    return [None if (found := files(Path(name))) is None else str(found) for name in names]


def failure(error: PipelineError | OSError) -> dict[str, Any]:
    """The error as an answer, which `pipe` raises again."""
    if isinstance(error, PipelineError):
        return {"error": str(error)}
    return {"errno": error.errno, "strerror": error.strerror or str(error), "filename": error.filename}


if __name__ == "__main__":
    main()
