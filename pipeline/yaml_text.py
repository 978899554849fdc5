"""YAML as DVC writes it. Not in `files`: training and evaluation as a library do without PyYAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import PipelineError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 5e-05 for text, but DVC writes the number so, by YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """The content of a YAML text. Raises `yaml.YAMLError` if it is none."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> Any:
    """The content of a file. Raises `FileNotFoundError`, and `PipelineError` if it is no YAML."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} is not valid YAML: {error}") from error
