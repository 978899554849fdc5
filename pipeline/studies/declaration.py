"""What a study asks and tries: the YAML files in `studies/`, typed, and their only reader.

title: Weight of SSIM in the loss
question: What does the weight do from only MSE to only SSIM?
common: {fetch.source: nyu_v2, train.epochs: 60}   # on top of params.yaml, for all variants
seeds: [0, 1, 2]
against: "0.5"                                      # the variant that the others are held against
plot: {x: loss.ssim_weight}                         # or frames, or parameters
variants:
  - name: "0.5"
    overrides: {loss.ssim_weight: 0.5}
    idea: One sentence.
    expectation: What should come of it, written before it ran.
    verdict: Kept, or not kept, and why; written afterwards.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from pipeline import paths
from pipeline.errors import PipelineError
from pipeline.params import Section, Seed, explain, flatten, parse_params
from pipeline.yaml_text import read_yaml

Scalar = bool | int | float | str | None
Overrides = Annotated[dict[str, Scalar], Field(default_factory=dict)]
Seeds = Annotated[list[Seed], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]

FRAMES, PARAMETERS = "frames", "parameters"
"""What a plot may have along its axis beside a parameter: both are measured, not declared."""
SET_BY_STUDY = {"seed": "`seeds` lists the seeds", "tracking": "the study's name is the group of its runs"}


class Plot(Section):
    x: Text
    """a numeric parameter that every variant sets, `frames` (to train on) or `parameters` (of the network)"""
    log: bool = False
    """a logarithmic axis; frames and parameters always have one"""


class Variant(Section):
    # A part of the experiment's name, which is one of git's.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
    overrides: Overrides
    idea: str = ""
    expectation: str = ""
    verdict: str = ""
    seeds: Seeds | None = None
    """instead of the study's"""


class Study(Section):
    name: str
    """of its file, with - for _"""
    order: int = 100
    """its place on the page; then by name"""
    title: Text
    question: Text
    expectation: str = ""
    verdict: str = ""
    common: Overrides
    seeds: Seeds
    against: str
    plot: Plot | None = None
    variants: Annotated[list[Variant], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        names = [variant.name for variant in self.variants]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two variants are called {twice}")
        if self.against not in names:
            raise ValueError(f"against is {self.against!r}; it should be the name of a variant: {', '.join(names)}")
        for where, overrides in self.all_overrides():
            for key in overrides:
                if reason := SET_BY_STUDY.get(key.partition(".")[0]):
                    raise ValueError(f"{where}.{key} cannot be set here: {reason}")
        if self.plot and self.plot.x not in (FRAMES, PARAMETERS):
            for variant in self.variants:
                value = self.overrides_of(variant).get(self.plot.x)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(f"plot.x is {self.plot.x!r}, of which variant {variant.name} sets no number")
        return self

    def all_overrides(self) -> Iterator[tuple[str, Mapping[str, Scalar]]]:
        """Where in the file they stand, and what they are."""
        yield "common", self.common
        for variant in self.variants:
            yield f"variant {variant.name}: overrides", variant.overrides

    def overrides_of(self, variant: Variant) -> dict[str, Scalar]:
        """All that a variant's recipe has on top of params.yaml, but the seed."""
        return {**self.common, **variant.overrides}

    def seeds_of(self, variant: Variant) -> list[int]:
        return variant.seeds or self.seeds

    @property
    def file(self) -> Path:
        return paths.STUDY_FILES / f"{self.name.replace('-', '_')}.yaml"


def read_study(path: Path) -> Study:
    """Raises `PipelineError` that names the file and the first wrong key."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*\.yaml", path.name):
        raise PipelineError(f"{path}: call it NAME.yaml, the name of small letters, digits and _")
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist") from None
    if not isinstance(content, dict):
        raise PipelineError(f"{path} should hold the keys of a study: title, question, seeds, against, variants")
    if "name" in content:
        raise PipelineError(f"{path}: name is not a key; the file's own name is that of the study")
    try:
        return Study.model_validate({"name": path.stem.replace("_", "-"), **content})
    except ValidationError as error:
        raise PipelineError(f"{path}: {explain(error, Study)}") from error


def read_studies(folder: Path = paths.STUDY_FILES) -> list[Study]:
    """All studies, as the page has them; none where there is no folder."""
    return sorted(map(read_study, folder.glob("*.yaml")), key=lambda study: (study.order, study.name))


def refuse_wrong_parameters(study: Study, machine: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises `PipelineError` if an override names no parameter, or has a value that the stages would refuse.

    machine: overrides of this machine. defaults: the content of params.yaml.
    """
    known = flatten(defaults)
    for where, overrides in [*study.all_overrides(), ("-S", machine)]:
        for key in overrides:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise PipelineError(f"{study.file}: {where}: {key} is not a parameter of {paths.PARAMS}{hint}")
    for variant in study.variants:
        overrides = {**study.overrides_of(variant), **machine}
        parse_params(overridden(defaults, overrides), f"{study.file}: variant {variant.name}")


def overridden(params: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested parameters with some of them replaced, which are given by their names with dots."""
    changed: dict[str, Any] = dict(params)
    for key, value in overrides.items():
        head, _, rest = key.partition(".")
        changed[head] = overridden(changed[head], {rest: value}) if rest else value
    return changed
