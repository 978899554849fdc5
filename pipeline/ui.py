"""MLflow's UI on loopback, from the first line in the terminal to the last process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from pipeline.errors import PipelineError, Terminated, signals_postponed
from pipeline.paths import STATE, repository_root

HOST = "127.0.0.1"
POLL_S = 0.1
GRACE_S = 5.0
"""How long the server may take to end: an open download would keep it for ever."""


def serve_ui(port: int) -> None:
    """Serve until Ctrl-C, a polite kill or a closed terminal, and leave no process behind.

    Raises `PipelineError` before any start if the port cannot be had, and later if the server ends by itself.
    """
    from pipeline.tracking.store import open_store, shown_uri, store_uri

    if store_uri().startswith("http"):
        print(f"the runs are on a server that has its own UI: {shown_uri()}")
        return
    refuse_taken_port(port)
    print(f"starting MLflow's UI of {shown_uri()}", flush=True)
    try:
        client = open_store()  # makes an empty store on first use, and refuses a broken one with one line
        recent = [found.experiment_id for found in client.search_experiments() if found.name != "Default"]
        log = repository_root() / STATE / f"ui-{port}.log"
        with mlflow_server(port, store_uri(), repository_root() / "mlartifacts", log) as server:
            if answers(server, port):
                print(f"MLflow's UI is at {_address(port, recent)} until Ctrl-C", flush=True)
                server.wait()
        raise PipelineError(f"MLflow's server ended by itself; {log} says why")
    except (KeyboardInterrupt, Terminated):
        return


def refuse_taken_port(port: int, host: str = HOST) -> None:
    if not 0 < port < 2**16:
        raise PipelineError(f"port {port} does not exist; choose one from 1024 to 65535 with --port")
    with socket.socket() as probe:
        # As the server does it: connections of an earlier one that linger are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PipelineError(
                f"port {port} cannot be used ({error.strerror}); choose another with --port"
            ) from error


def _address(port: int, experiments: list[str]) -> str:
    """The runs of the first experiment: MLflow's own first page is about language models, and has none."""
    page = f"/#/experiments/{experiments[0]}?workflowType=machine_learning" if experiments else ""
    return f"http://{HOST}:{port}{page}"


@contextlib.contextmanager
def mlflow_server(port: int, uri: str, artifacts: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server in a process group of its own, which is ended whole.

    What it prints goes to `log`: its hints and its line for each request would push the address out of sight.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(artifacts)]
    # Without jobs and with one worker: 5 s and 0.5 GB to start instead of 12 s and 3.1 GB.
    command += ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log.parent.mkdir(parents=True, exist_ok=True)
    server = None
    try:
        with log.open("wb") as output, signals_postponed():
            server = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        yield server
    finally:
        if server is not None:
            _end(server)


def answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server answers; False if it ended before."""
    while server.poll() is None:
        connection = HTTPConnection(HOST, port, timeout=2)  # knows no proxy, whatever the environment says
        with contextlib.suppress(OSError, HTTPException), contextlib.closing(connection):
            connection.request("GET", "/health")
            if connection.getresponse().status == HTTPStatus.OK:
                return True
        time.sleep(POLL_S)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    # A second Ctrl-C would leave by half what the first one ends.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _signal_group(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S)
        _signal_group(server.pid, signal.SIGKILL)
        server.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
