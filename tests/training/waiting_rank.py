"""A rank that says its number and waits for its end."""

from __future__ import annotations

import os
import time

from pipeline.training.distributed import joined

with joined():
    os.write(1, f"{os.getpid()}\n".encode())  # in one piece: two ranks share the pipe
    time.sleep(60)
