"""What is told to a run arrives in order, once, and in few calls."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tracking.kept import Entry, keep, kept_entries, kept_runs, kept_tags
from pipeline.tracking.outbox import BATCH_METRICS, BATCH_PARAMS, Outbox, deliver_kept, merged
from pipeline.tracking.store import experiment_id, open_store
from tests.tracking.toy import wait_until

pairs = st.lists(st.tuples(st.text("ab", min_size=1), st.text("cd")), max_size=3)
entries = st.one_of(
    st.builds(lambda values: {"call": "metrics", "points": [(name, 1.0, 2, 3) for name, _ in values]}, pairs),
    st.builds(lambda values: {"call": "tags", "pairs": values}, pairs),
    st.builds(lambda name: {"call": "artifact", "path": name, "folder": None}, st.text("xy", min_size=1)),
)


def told(some: list[Entry]) -> list[tuple[str, object]]:
    """Every single thing that the calls tell, in order."""
    return [
        (entry["call"], thing)
        for entry in some
        for thing in entry.get("points", entry.get("pairs", [entry.get("path")]))
    ]


@given(st.lists(entries, max_size=12))
def test_merging_calls_keeps_everything_in_its_order(some: list[Entry]) -> None:
    assert told(list(merged(some))) == told(some)


def test_neighbouring_points_are_sent_in_as_few_calls_as_mlflow_allows() -> None:
    points = [{"call": "metrics", "points": [("loss", 0.5, 0, step)]} for step in range(2 * BATCH_METRICS + 1)]
    tags = {"call": "tags", "pairs": [(str(number), "") for number in range(BATCH_PARAMS + 1)]}
    sizes = [len(entry.get("points", entry.get("pairs"))) for entry in merged([*points, tags])]
    assert sizes == [BATCH_METRICS, BATCH_METRICS, 1, BATCH_PARAMS, 1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there is asked once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def new_run(client: mlflow.MlflowClient) -> str:
    return str(client.create_run(experiment_id(client, "depth")).info.run_id)


def test_sending_again_after_a_kill_doubles_nothing(root: Path, store: mlflow.MlflowClient) -> None:
    client = open_store()
    run_id = new_run(client)
    folder = root / ".state" / "outbox" / run_id
    told_before = [("loss", 0.5, 1000, 1), ("loss", 0.25, 2000, 2)]
    (root / "note.txt").write_text("note", encoding="utf-8")
    calls: list[Entry] = [
        {"call": "params", "pairs": [("seed", "0")]},
        {"call": "metrics", "points": told_before},
        {"call": "artifact", "path": str(root / "note.txt"), "folder": None},
        {"call": "status", "status": "FINISHED", "end_time": 3000},
    ]
    for _ in range(2):  # the second time stands for a process that was killed before it could cross them off
        folder.mkdir(parents=True)
        (folder / "address.json").write_text(json.dumps({"store": client.tracking_uri, "run_id": run_id}))
        for number, call in enumerate(calls):
            keep(folder, number, call)
        assert deliver_kept(client, folder.parent) == (1, 0)
        assert not folder.exists()
    assert [(p.step, p.value) for p in store.get_metric_history(run_id, "loss")] == [(1, 0.5), (2, 0.25)]
    assert [item.path for item in store.list_artifacts(run_id)] == ["note.txt"]
    found = store.get_run(run_id)
    assert (found.info.status, found.info.end_time, found.data.params) == ("FINISHED", 3000, {"seed": "0"})


def test_calls_kept_for_another_store_wait_for_it(root: Path) -> None:
    folder = root / "outbox" / "0123"
    folder.mkdir(parents=True)
    (folder / "address.json").write_text(json.dumps({"store": "http://127.0.0.1:9", "run_id": "0123"}))
    keep(folder, 0, {"call": "tags", "pairs": [("a", "b")]})
    assert deliver_kept(open_store(), folder.parent) == (0, 0)
    assert (folder / "000000.json").exists()


def test_what_a_living_process_keeps_is_left_to_it(root: Path) -> None:
    folder = root / "outbox" / "0123"
    folder.mkdir(parents=True)
    client = open_store()
    (folder / "address.json").write_text(json.dumps({"store": client.tracking_uri, "run_id": "0123"}))
    keep(folder, 0, {"call": "tags", "pairs": [("a", "b")]})
    code = (
        f"import fcntl; h = open({str(folder / 'lock')!r}, 'w'); fcntl.flock(h, fcntl.LOCK_EX); "
        "print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        living.stdout.readline()
        assert deliver_kept(client, folder.parent) == (0, 0)
        assert (folder / "000000.json").exists()
        living.kill()
    assert deliver_kept(client, folder.parent) == (1, 0), "a call for a run that is not there is refused for good"


def test_a_run_that_was_deleted_meanwhile_is_told_once_and_ends_nothing(
    root: Path, store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_store()
    run_id = new_run(client)
    store.delete_run(run_id)
    outbox = Outbox(client, run_id, root / "outbox" / run_id)
    for step in range(3):
        outbox.put({"call": "metrics", "points": [("loss", 0.5, step, step)]})
        outbox.put({"call": "tags", "pairs": [("step", str(step))]})
    outbox.close()
    assert capsys.readouterr().err.count("MLflow refused") == 1
    assert not kept_runs(root / "outbox")


def test_of_a_batch_only_what_mlflow_refuses_is_lost_and_named(
    root: Path, store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_store()
    run_id = new_run(client)
    outbox = Outbox(client, run_id, root / "outbox" / run_id)
    points = [("d<1.25" if step in (7, 70) else "loss", 0.5, 1000 + step, step) for step in range(100)]
    for point in points:
        outbox.put({"call": "metrics", "points": [point]})
    outbox.close()
    kept = root / "kept" / run_id
    kept.mkdir(parents=True)
    (kept / "address.json").write_text(json.dumps({"store": client.tracking_uri, "run_id": run_id}))
    keep(kept, 0, {"call": "tags", "pairs": [("good", "1"), ("<bad>", "2")]})
    assert deliver_kept(client, kept.parent) == (1, 0)
    history = store.get_metric_history(run_id, "loss")
    assert sorted(point.step for point in history) == [step for step in range(100) if step not in (7, 70)]
    assert store.get_run(run_id).data.tags["good"] == "1"
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"warning: MLflow refused metrics d<1.25 of run {run_id}: ")
    assert second.startswith(f"warning: MLflow refused tags <bad> of run {run_id}: ")


def test_what_can_be_neither_sent_nor_kept_is_told_at_once_and_is_an_error(
    root: Path, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow.MlflowClient("http://127.0.0.1:9")
    (root / "outbox").write_text("a file stands where the folder should be", encoding="utf-8")
    outbox = Outbox(client, "0123", root / "outbox" / "0123")
    outbox.put({"call": "tags", "pairs": [("a", "b")]})
    said: list[str] = []
    wait_until(lambda: bool(said.append(capsys.readouterr().err) or said[-1]), 20, "a warning")
    assert said[-1].startswith("warning: what run 0123 is told from here on is lost: ")
    assert said[-1].count("\n") == 1
    with pytest.raises(NotADirectoryError):
        outbox.close()


def test_what_a_later_stage_tells_waits_behind_what_an_earlier_one_could_not_send(
    root: Path, impatient: None
) -> None:
    folder = root / "outbox" / "0123"
    for stage, value in enumerate((0.5, float("nan"))):
        outbox = Outbox(mlflow.MlflowClient("http://127.0.0.1:9"), "0123", folder)
        outbox.put({"call": "metrics", "points": [("loss", value, 1000, stage)]})
        outbox.put({"call": "tags", "pairs": [("stage", str(stage))]})
        outbox.close()
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in kept_entries(folder)]
    assert [entry["call"] for entry in kept] == ["metrics", "tags"] * 2
    assert kept[0]["points"] == [["loss", 0.5, 1000, 0]]
    assert math.isnan(kept[2]["points"][0][1])
    assert kept_tags(folder) == {"stage": "1"}
