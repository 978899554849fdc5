"""Monocular depth estimation: one RGB image in, a metric depth map out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.prediction.estimator import DepthEstimator

__all__ = ["DepthEstimator"]


def __getattr__(name: str) -> Any:
    # Not at the top: torch takes a second and a half, and most of the package's commands do without it.
    if name == "DepthEstimator":
        from pipeline.prediction.estimator import DepthEstimator

        return DepthEstimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
