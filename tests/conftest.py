from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Time limits of single examples fail on a busy machine, and say nothing of the code.
settings.register_profile("pipeline", deadline=None)
settings.load_profile("pipeline")

# A shell starts background jobs with Ctrl-C ignored, and their children inherit that; some tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with its tables. To create one takes seconds."""
    from pipeline.tracking.store import open_store  # takes two seconds, which most tests need not wait for

    root = tmp_path_factory.mktemp("empty-store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store()
    return root / "mlflow.db"
