"""The MLflow store: where it is, how it is opened for the first time, and what of it belongs to this repository."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import mlflow
import requests
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.errors import PipelineError
from pipeline.files import locked
from pipeline.paths import STATE, repository_root

ANSWER_S = 10.0
"""How long a server may take to answer at all."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Of databases whose address does not name it."""
PAGE = 1000
"""The most runs that one search returns."""


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI` if set, else the SQLite file at the repository's root.

    The path of an SQLite file counts from there, too: in a copy that DVC deletes it would be lost.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if not uri.startswith("sqlite:///"):
        return uri
    return f"sqlite:///{repository_root() / uri.removeprefix('sqlite:///')}"


def store_is_missing() -> bool:
    """Whether the store is an SQLite file that is not there: to open it would make one."""
    uri = store_uri()
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file()


def shown_uri(uri: str | None = None) -> str:
    """A store's address (the present one's without an argument) without its password, for messages."""
    uri = uri or store_uri()
    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:  # a path, say
        return uri


def first_line(error: BaseException) -> str:
    """What went wrong; SQLAlchemy adds the statement and a link below."""
    return str(error).partition("\n")[0] or type(error).__name__


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raise `PipelineError` where MLflow's client raises its own errors."""
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise PipelineError(f"MLflow at {shown_uri()} does not answer: {first_line(error)}") from error


def open_store() -> mlflow.MlflowClient:
    """A client of the store. Its first use, which creates the tables, is for one process at a time.

    Raises `PipelineError` if it cannot be opened, after 10 s if it is a server that says nothing.
    """
    uri = store_uri()
    try:
        _knock(uri)
    except OSError as error:  # those of requests are, too
        raise PipelineError(
            f"the MLflow store {shown_uri()} cannot be opened: "
            f"the server does not answer ({type(error).__name__}); "
            "start it, or unset MLFLOW_TRACKING_URI to use mlflow.db here"
        ) from error
    try:
        with first_use_lock(uri):
            client = new_client()
            client.search_experiments(max_results=1)
        return client
    except (MlflowException, SQLAlchemyError) as error:
        raise PipelineError(f"the MLflow store {shown_uri()} cannot be opened: {first_line(error)}") from error


def _knock(uri: str) -> None:
    """Fail soon where a server does not answer: MLflow itself tries again for minutes."""
    if uri.startswith("http"):
        # Its database must answer this, too. Any answer will do: one that wants a password is there.
        search = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
        requests.get(search, params={"max_results": 1}, timeout=ANSWER_S)
        return
    with contextlib.suppress(ArgumentError):
        url = make_url(uri)
        port = url.port or PORTS.get(url.get_backend_name())
        if url.host and port:
            socket.create_connection((url.host, port), timeout=ANSWER_S).close()


def new_client() -> mlflow.MlflowClient:
    """A client of the store, which may turn out not to be there."""
    # The registry would otherwise be sought by MLflow's own rules, in the working directory.
    return mlflow.MlflowClient(tracking_uri=store_uri(), registry_uri=store_uri())


def experiment_id(client: mlflow.MlflowClient, name: str) -> str:
    """The id of the experiment, created with artifacts beside a local store, restored if it was deleted."""
    uri = store_uri()
    # A server decides itself where artifacts go; a local path would be meaningless to it. Without one the folder
    # that a run works in would be taken, which may be a copy that DVC deletes.
    location = (repository_root() / "mlartifacts").as_uri() if not uri.startswith(("http", "databricks")) else None
    with first_use_lock(uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            return _create_experiment(client, name, location)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def _create_experiment(client: mlflow.MlflowClient, name: str, location: str | None) -> str:
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        # On a server another machine may have been first.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def search_runs(client: mlflow.MlflowClient, experiment: str, where: str = "") -> list[Run]:
    """All runs of the experiment with this id that match MLflow's filter, deleted ones left out."""
    found = client.search_runs([experiment], where, ViewType.ACTIVE_ONLY, PAGE)
    runs = list(found)
    while found.token:
        found = client.search_runs([experiment], where, ViewType.ACTIVE_ONLY, PAGE, page_token=found.token)
        runs += found
    return runs


def replaced_runs(runs: Iterable[Run]) -> set[str]:
    """Ids of the attempts at a DVC experiment that were followed by one that finished, or by another attempt."""
    attempts: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        tags = run.data.tags
        if "dvc.experiment" in tags:
            key = tags.get("repository", ""), tags["dvc.experiment"], tags.get("dvc.baseline_rev", "")
            attempts.setdefault(key, []).append(run)
    replaced: set[str] = set()
    for same in attempts.values():
        same.sort(key=lambda run: run.info.start_time)
        finished = [run for run in same if run.info.status == "FINISHED"]
        last = (finished or same)[-1]
        replaced |= {run.info.run_id for run in same if run.info.start_time < last.info.start_time}
    return replaced


@contextlib.contextmanager
def first_use_lock(uri: str) -> Iterator[None]:
    """Several processes that create the tables of one SQLite file at once corrupt it for good.

    On a server the lock keeps this repository's processes from creating one experiment twice.
    """
    local = uri.startswith("sqlite:///")
    path = Path(uri.removeprefix("sqlite:///")) if local else repository_root() / STATE / "mlflow"
    with locked(path.with_name(f"{path.name}.lock")):
        yield
