from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_network import save_small_network


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of frames with an untrained border."""
    return save_small_network(tmp_path_factory.mktemp("models") / "best.safetensors")
