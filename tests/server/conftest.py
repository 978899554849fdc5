"""PostgreSQL, an S3 store and MLflow's server."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.server.services import ObjectStore, Postgres, TeamServer, what_is_missing
from tests.tracking.toy import Toy, client_of

HERE = Path(__file__).parent
_numbers = itertools.count()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """They take minutes, so a plain `pytest` leaves them to `make test-server`, which names this folder."""
    paths = [Path(argument.partition("::")[0]).resolve() for argument in config.invocation_params.args]
    named = any(path.is_relative_to(HERE) for path in paths)
    reason = what_is_missing() or (None if named else "takes minutes; `make test-server` runs it")
    for item in items:
        if reason and item.path.is_relative_to(HERE) and "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    postgres = Postgres()
    postgres.start()
    yield postgres
    postgres.remove()


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    objects = ObjectStore(tmp_path_factory.mktemp("objects") / "log")
    yield objects
    objects.remove()


@pytest.fixture(scope="session")
def new_server(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, objects: ObjectStore
) -> Iterator[Callable[[], TeamServer]]:
    """Starts an MLflow server on a database without tables."""
    with contextlib.ExitStack() as started:

        def start() -> TeamServer:
            database = f"mlflow{next(_numbers)}"
            postgres.create(database)
            server = TeamServer(postgres, objects, database, tmp_path_factory.mktemp(database) / "log")
            started.callback(server.kill)
            server.start()
            return server

        yield start


@pytest.fixture(scope="session")
def shared_server(new_server: Callable[[], TeamServer]) -> TeamServer:
    return new_server()


@pytest.fixture
def server(shared_server: TeamServer) -> Iterator[TeamServer]:
    """A server without an experiment. It takes seconds to start one, so earlier tests' are put out of the way."""
    yield shared_server
    client = client_of(shared_server.uri)
    if (found := client.get_experiment_by_name("depth")) is not None:
        client.rename_experiment(found.experiment_id, f"depth-{next(_numbers)}")


@pytest.fixture
def toy(toy_folder: Path, server: TeamServer) -> Toy:
    return Toy(toy_folder, MLFLOW_TRACKING_URI=server.uri)


@pytest.fixture
def toy_folder(tmp_path: Path) -> Iterator[Path]:
    """Where a repository may be made; a queue's workers, which wait for more for a while, are ended."""
    yield tmp_path / "toy"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(tmp_path / "toy"):
                process.kill()
