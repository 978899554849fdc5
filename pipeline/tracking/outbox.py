"""What a run tells the store: sent in order by a thread, kept on disk while the store cannot be reached."""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import mlflow
import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image, UnidentifiedImageError

from pipeline.errors import signals_postponed
from pipeline.files import locked, read_json
from pipeline.tracking.kept import ADDRESS, LOCK, Entry, Kept, kept_entries, warn
from pipeline.tracking.store import first_line, shown_uri

PACE_S = 3.0
"""Points are gathered for so long: a call costs 8 ms of processor time whether it carries 3 points or 12."""
BATCH_METRICS = 800
BATCH_PARAMS = 100
"""The most of each that are sent in one call; MLflow's limits are 1000 and 100."""
RETRY_S = 10.0
"""How long the store is left alone after it could not be reached."""
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}
"""Error codes that stay the same however often a call is repeated: the run was deleted, say."""
TEMPORARY = {401, 403, 408, 425, 429}
"""HTTP statuses of refusals that may end: a password is mended, a limit is lifted."""
PATIENCE_S = 30.0
"""How long the runs that ended processes left may keep a start waiting."""
THUMBNAIL_PX = 256
"""Longer side of the small copy of a picture that MLflow's UI shows in its grid."""


class Outbox:
    """The calls of one run. They return at once; `close` waits until everything is sent or safely on disk.

    Sending twice does no harm: points carry their own time, and MLflow stores equal points once.
    """

    def __init__(
        self,
        client: mlflow.MlflowClient,
        run_id: str,
        folder: Path,
        settled: Callable[[int], None] = lambda number: None,
    ) -> None:
        """folder: where calls of this run are kept while they cannot be sent.

        settled: is told, by the thread, that the entry with this `number` and all before it are sent or kept.
        """
        self._client = client
        self._run_id = run_id
        self._settled = settled
        self._queue: queue.SimpleQueue[tuple[int, Entry] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._kept = Kept(folder, shown_uri(client.tracking_uri), run_id)
        self._reason = ""
        self._retry_at = 0.0
        self._warned: set[str] = set()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        self._queue.put((entry.pop("number", 0), entry))

    def close(self) -> None:
        """Send the rest, or keep it and say so in one line. Raises `OSError` if it can be neither sent nor kept."""
        with signals_postponed():  # a second Ctrl-C would lose what is still in memory
            self._closing.set()
            self._queue.put(None)
            self._thread.join()
            self._kept.release()
        if self._failure is not None:
            raise self._failure
        if self._kept:
            store, left = shown_uri(self._client.tracking_uri), len(kept_entries(self._kept.folder))
            warn(
                f"MLflow at {store} did not take {left} calls of run {self._run_id} ({self._reason}); "
                f"they are kept in {self._kept.folder} and sent at the next start, or by `depth sync`"
            )

    def _work(self) -> None:
        try:
            open_ = True
            while open_:
                taken = self._take()
                open_ = None not in taken
                told = [item for item in taken if item is not None]
                for entry in merged(entry for _, entry in told):
                    self._deliver(entry)
                if number := max((number for number, _ in told), default=0):
                    self._settled(number)
                self._closing.wait(PACE_S)
            if self._kept and time.monotonic() >= self._retry_at:
                self._resend()
        except BaseException as error:  # raised by `close`, in the thread that can be heard, hours later perhaps
            warn(f"what run {self._run_id} is told from here on is lost: {first_line(error)}")
            self._failure = error

    def _take(self) -> list[tuple[int, Entry] | None]:
        taken = [self._queue.get()]
        with contextlib.suppress(queue.Empty):
            while taken[-1] is not None:
                taken.append(self._queue.get_nowait())
        return taken

    def _deliver(self, entry: Entry) -> None:
        if self._kept and time.monotonic() >= self._retry_at:
            self._resend()
        if self._kept or not self._send(entry):
            self._kept.add(entry)

    def _send(self, entry: Entry) -> bool:
        """Whether the entry is done with: sent, or refused for good."""
        try:
            refused = send_accepted(self._client, self._run_id, entry)
        except Exception as error:
            self._retry_at = time.monotonic() + RETRY_S
            self._reason = first_line(error)
            return False
        for what in refused.keys() - self._warned:
            warn(f"MLflow refused {what} of run {self._run_id}: {refused[what]}")
        self._warned |= refused.keys()
        return True

    def _resend(self) -> None:
        if send_kept(self._client, self._run_id, self._kept.folder):
            self._retry_at = time.monotonic() + RETRY_S
        else:
            self._kept.clear()


def deliver_kept(client: mlflow.MlflowClient, folder: Path) -> tuple[int, int]:
    """Send what ended processes left in `folder` for this client's store; return how many runs, how many not.

    Runs whose process is alive are left to it.
    """
    sent = failed = 0
    started = time.monotonic()
    for left in sorted(folder.iterdir()) if folder.is_dir() else []:
        address = left / ADDRESS
        if not address.is_file():
            continue
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(left / LOCK, wait=False))
            except BlockingIOError:
                continue
            if not address.is_file():  # another process was faster
                shutil.rmtree(left, ignore_errors=True)
                continue
            content = read_json(address)
            if content["store"] != shown_uri(client.tracking_uri):
                continue
            if send_kept(client, content["run_id"], left):
                failed += 1
                if time.monotonic() - started > PATIENCE_S:
                    break  # the next would wait as long for the same server
                continue
            shutil.rmtree(left, ignore_errors=True)
            sent += 1
    return sent, failed


def send_kept(client: mlflow.MlflowClient, run_id: str, folder: Path) -> int:
    """Send what is kept in `folder`, oldest first; return how many entries are left because one failed."""
    entries = kept_entries(folder)
    for position, path in enumerate(entries):
        try:
            refused = send_accepted(client, run_id, read_json(path))
        except Exception:
            return len(entries) - position
        for what, why in refused.items():
            warn(f"MLflow refused {what} of run {run_id}: {why}")
        path.unlink()
    return 0


def send_accepted(client: mlflow.MlflowClient, run_id: str, entry: Entry) -> dict[str, str]:
    """Send the entry, or as much of it as MLflow accepts; return what it refuses for good, and why.

    Raises whatever else the client raises; nothing is known then.
    """
    try:
        send(client, run_id, entry)
    except Exception as error:
        if not is_refusal(error):
            raise
        if not is_there(client, run_id):
            return {"everything": first_line(error)}
        key = next((key for key in ("points", "pairs") if key in entry), None)
        if key is None or len(entry[key]) < 2:
            return {f"{entry['call']} {entry[key][0][0] if key else entry.get('path', '')}": first_line(error)}
        middle = len(entry[key]) // 2
        halves = entry | {key: entry[key][:middle]}, entry | {key: entry[key][middle:]}
        return send_accepted(client, run_id, halves[0]) | send_accepted(client, run_id, halves[1])
    return {}


def is_there(client: mlflow.MlflowClient, run_id: str) -> bool:
    """Whether the run takes calls. Of one that was deleted all are refused."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except Exception as error:
        if is_refusal(error):
            return False
        raise


def send(client: mlflow.MlflowClient, run_id: str, entry: Entry) -> None:
    match entry["call"]:
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*point) for point in entry["points"]])
        case "params":
            client.log_batch(run_id, params=[Param(*pair) for pair in entry["pairs"]])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(*pair) for pair in entry["pairs"]])
        case "dataset":
            tags = [InputTag("mlflow.data.context", entry["context"])]
            client.log_inputs(run_id, [DatasetInput(Dataset(**entry["dataset"]), tags)])
        case "artifact":
            client.log_artifact(run_id, entry["path"], entry["folder"])
            if entry.get("temporary"):
                Path(entry["path"]).unlink()
        case "picture":
            send_picture(client, run_id, Path(entry["path"]))
        case "status":
            client.set_terminated(run_id, entry["status"], entry["end_time"])


def send_picture(client: mlflow.MlflowClient, run_id: str, picture: Path) -> None:
    """The picture and its small copy, as `MlflowClient.log_image` sends them, then delete the file."""
    small = picture.with_name(f"{picture.stem}+compressed.webp")
    with Image.open(picture) as image:
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        image.save(small, method=0)  # 2 ms of processor time instead of 38
    for path in (picture, small):
        client.log_artifact(run_id, str(path), "images")
    small.unlink()
    picture.unlink()


def merged(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same calls with neighbouring points and pairs joined into as few as MLflow allows."""
    limits = {
        "metrics": ("points", BATCH_METRICS),
        "params": ("pairs", BATCH_PARAMS),
        "tags": ("pairs", BATCH_PARAMS),
    }
    waiting: Entry | None = None
    for entry in entries:
        if waiting is not None and (waiting["call"] != entry["call"] or entry["call"] not in limits):
            yield from _split(waiting, limits)
            waiting = None
        if waiting is None:
            waiting = entry
        else:
            key, _ = limits[entry["call"]]
            waiting = waiting | {key: [*waiting[key], *entry[key]]}
    if waiting is not None:
        yield from _split(waiting, limits)


def _split(entry: Entry, limits: dict[str, tuple[str, int]]) -> Iterator[Entry]:
    if entry["call"] not in limits:
        yield entry
        return
    key, limit = limits[entry["call"]]
    for start in range(0, len(entry[key]), limit):
        yield {"call": entry["call"], key: entry[key][start : start + limit]}


def is_refusal(error: Exception) -> bool:
    """Whether repeating the call is useless; everything else may be the network's or the server's bad day."""
    if isinstance(error, (FileNotFoundError, UnidentifiedImageError)):
        return True
    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return 400 <= status < 500 and status not in TEMPORARY
    return False
