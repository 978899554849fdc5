"""The services of deploy/compose.yaml on loopback, for real and without containers."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.tracking.toy import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
PASSWORD = "onlyfortests"
SETTINGS = {"POSTGRES_PASSWORD": PASSWORD, "S3_ACCESS_KEY": "testkey", "S3_SECRET_KEY": "testsecret"}
"""What the tests write into .env."""


def what_is_missing() -> str | None:
    """Why these tests cannot run here; None if they can."""
    absent = [name for name in ("psycopg2", "boto3", "moto", "dvc_s3") if importlib.util.find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed; `make test-server` installs what these tests need"
    if _postgres_binaries() is None:
        return "PostgreSQL is not installed; on Debian install postgresql"
    return None


def _postgres_binaries() -> Path | None:
    """Debian keeps them out of PATH, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def compose_service(name: str) -> dict[str, Any]:
    """A service of deploy/compose.yaml with the settings of .env.example and of the tests filled in."""
    text = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    settings = dict(re.findall(r"^(\w+)=(.+)$", text, re.MULTILINE)) | SETTINGS

    def setting(found: re.Match[str]) -> str:
        return settings.get(found["name"]) or found["default"] or ""

    pattern = r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}"
    filled = re.sub(pattern, setting, (DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    service: dict[str, Any] = yaml.safe_load(filled)["services"][name]
    return service


class Postgres:
    """A cluster of its own, with the user and password of the compose file."""

    def __init__(self) -> None:
        binaries = _postgres_binaries()
        assert binaries is not None
        self._binaries = binaries
        self.port = free_port()
        # PostgreSQL refuses root, and another user cannot enter pytest's folders.
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.folder = Path(tempfile.mkdtemp(prefix="depth-postgres-"))
        if self._as_user:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._environment = os.environ | {"PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
        password = self.folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        password.chmod(0o644)
        self._run(
            "initdb", f"--pgdata={self.folder / 'data'}", "--username=mlflow", f"--pwfile={password}",
            "--auth=scram-sha-256", "--no-sync",
        )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, str(self._binaries / program), *arguments],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the server that pg_ctl leaves behind
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
        assert done.returncode == 0, f"{program} failed; {self.folder} may have a log"

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -F"  # -F: no waiting for the disk
        self._run(
            "pg_ctl", f"--pgdata={self.folder / 'data'}", f"--log={self.folder / 'log'}", f"--options={options}",
            "--wait", "start",
        )  # fmt: skip

    def kill(self) -> None:
        """As after a power cut: connections break off, nothing is put in order."""
        self._run("pg_ctl", f"--pgdata={self.folder / 'data'}", "--mode=immediate", "stop")

    def create(self, database: str) -> None:
        self._run("createdb", "--host=127.0.0.1", f"--port={self.port}", "--username=mlflow", database)

    def select(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """The rows as PostgreSQL has them, past MLflow."""
        import psycopg2

        with psycopg2.connect(
            host="127.0.0.1", port=self.port, user="mlflow", password=PASSWORD, dbname=database
        ) as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        connection.close()
        return rows

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class ObjectStore:
    """moto's S3 server, with the buckets that the compose file makes."""

    def __init__(self, log: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        port = self.address.rpartition(":")[2]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port], stdout=output, stderr=output
            )
        wait_until(lambda: answers(self.url), 60, "the object store answers")
        service = compose_service("buckets")
        command = [sys.executable, str(DEPLOY / service["command"][1]), *service["command"][2:]]
        environment = os.environ | loopback(service["environment"], {"objects:8333": self.address})
        for _ in range(2):  # every `docker compose up` runs it again
            subprocess.run(command, env=environment, check=True, timeout=60)

    @property
    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=SETTINGS["S3_ACCESS_KEY"],
            aws_secret_access_key=SETTINGS["S3_SECRET_KEY"],
            region_name="us-east-1",
        )

    def files(self, bucket: str, part: str = "") -> dict[str, bytes]:
        """The objects whose key contains `part`."""
        client = self.client
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", []) if part in item["Key"]]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def remove(self) -> None:
        self._process.kill()
        self._process.wait()


class TeamServer:
    """`mlflow server` with the command and the environment of the compose file."""

    def __init__(self, postgres: Postgres, objects: ObjectStore, database: str, log: Path) -> None:
        self.postgres, self.objects, self.database = postgres, objects, database
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._log = log
        service = compose_service("mlflow")
        self._command: list[str] = service["command"]
        addresses = {
            "database:5432/mlflow": f"127.0.0.1:{postgres.port}/{database}",
            "objects:8333": objects.address,
            "127.0.0.1:5000": f"127.0.0.1:{self.port}",
            "0.0.0.0": "127.0.0.1",
        }
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_"))}
        self.environment = clean | loopback(service["environment"], addresses) | {
            "MLFLOW_PORT": str(self.port),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._log.parent, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers_or_ended, 120, f"the server answers; see {self._log}")
        assert self._process.poll() is None, self._log.read_text(encoding="utf-8")

    def _answers_or_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None or answers(f"{self.uri}/health")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None

    def run(self, *command: str) -> str:
        """What `docker compose exec mlflow` runs, beside the server."""
        done = subprocess.run(
            command, cwd=self._log.parent, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def select(self, query: str) -> list[tuple[Any, ...]]:
        return self.postgres.select(self.database, query)


def loopback(environment: dict[str, Any], addresses: dict[str, str]) -> dict[str, str]:
    """The environment of a service with the addresses of this machine instead of the containers'."""
    moved = {key: str(value) for key, value in environment.items()}
    for there, here in addresses.items():
        moved = {key: value.replace(there, here) for key, value in moved.items()}
    return moved


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False
