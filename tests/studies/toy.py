"""A small study, and what its variants came to as a person made it up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from pipeline.studies.declaration import Study
from pipeline.studies.record import Measured, Validation

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"

WEIGHTS = """
title: Weights
question: Which weight?
common: {fetch.source: nyu_v2, train.epochs: 3}
seeds: [7]
against: heavy
plot: {x: loss.ssim_weight}
variants:
  - {name: light, idea: Less of it., expectation: Better., overrides: {loss.ssim_weight: 0.25}}
  - {name: heavy, overrides: {loss.ssim_weight: 0.75}}
"""
STUDY = Study.model_validate(
    {"name": "weights", "expectation": "Less is more.", "verdict": "It is.", **yaml.safe_load(WEIGHTS)}
)
RMSE = {("light", 0): 0.81, ("light", 1): 0.83, ("heavy", 0): 0.9, ("heavy", 1): 0.96, ("heavy", 2): 0.93}


def measured(variant: str = "heavy", seed: int = 0, **changed: object) -> Measured:
    rmse = RMSE[variant, seed]
    return replace(
        Measured(
            study="weights",
            variant=variant,
            seed=seed,
            overrides={"fetch.source": "nyu_v2", "train.epochs": 3, "loss.ssim_weight": 0.25}
            | ({"loss.ssim_weight": 0.75} if variant == "heavy" else {}),
            machine={"fetch.source": "file"},
            validation=Validation(rmse, 0.5, 3, "best"),
            test={"full": {"rmse": rmse + 0.1, "abs_rel": 0.2, "delta1": 0.5}, "eigen": {}},
            epochs=3,
            training_s=4.5,
            parameters=499_000,
            train_frames=716,
            val_frames=79,
            test_frames=215,
            source="file",
            environment={"device": "cpu", "processor": "abacus", "torch": "2.13.0"},
            git_commit="3f2a9c81d7e4",
            git_dirty=False,
            experiment=f"weights-{variant}-s{seed}-ab12cd",
            run_id="b1946ac9",
            date="2026-11-27",
        ),
        **changed,  # type: ignore[arg-type]
    )


ALL = [measured(*key) for key in RMSE]
