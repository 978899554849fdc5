"""Processor, memory, disk, network and GPU while a stage works, as MLflow's `system/` metrics."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

INTERVAL_S = 10.0
FIRST_S = 1.0
"""The first sample comes early, so that short stages have one."""

Point = tuple[str, float, int, int]


class SystemMetrics:
    """Samples in a thread until `stop`. The step is the seconds since `began_ms`, when the run began."""

    def __init__(self, log_points: Callable[[list[Point]], None], began_ms: int) -> None:
        self._log_points = log_points
        self._began_ms = began_ms
        self._stopped = threading.Event()
        self._monitors = _monitors()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        self._sample()  # psutil tells the load since the last call, so the first says nothing
        wait_s = FIRST_S
        while not self._stopped.wait(wait_s):
            self._log_points(self._sample())
            wait_s = INTERVAL_S

    def _sample(self) -> list[Point]:
        points = []
        now_ms = time.time_ns() // 1_000_000
        for monitor in self._monitors:
            # A card that falls off the bus must not end the training before it does so itself.
            with contextlib.suppress(Exception):
                monitor.collect_metrics()
                for name, value in monitor.aggregate_metrics().items():
                    points.append((f"system/{name}", float(value), now_ms, (now_ms - self._began_ms) // 1000))
                monitor.clear_metrics()
        return points


def _monitors() -> list[BaseMetricsMonitor]:
    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    # Without an NVIDIA card it raises, and MLflow logs a line about it.
    with contextlib.suppress(Exception):
        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        monitors.append(GPUMonitor())
    return monitors
