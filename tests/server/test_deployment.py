"""The compose file says nothing that the tests beside it do not run, and gives no secret away."""

from __future__ import annotations

import re
import subprocess

import yaml

from tests.server.services import DEPLOY

COMPOSE = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(COMPOSE)["services"]
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_image_has_its_version() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(images) == 3
    for image in images:
        assert re.search(r":\d+\.\d+", image), image


def test_secrets_are_asked_for_and_never_committed() -> None:
    for secret in ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        assert EXAMPLE[secret] == ""
        assert f"${{{secret}:?" in COMPOSE, "compose stops without it"
    assert set(re.findall(r"\$\{(\w+)", COMPOSE)) == set(EXAMPLE)
    subprocess.run(["git", "check-ignore", "--quiet", "deploy/.env"], cwd=DEPLOY.parent, check=True)


def test_services_open_ports_where_the_settings_say_and_keep_their_data() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert port.startswith("${LISTEN:-127.0.0.1}:"), name
        if name != "buckets":
            assert "healthcheck" in service
    volumes = yaml.safe_load(COMPOSE)["volumes"]
    assert {
        mount.partition(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])
    } == set(volumes)
