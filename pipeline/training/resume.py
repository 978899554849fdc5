"""The state of a training on disk, from which it goes on after any end as if there had been none."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import Diverged
from pipeline.files import written_whole
from pipeline.state import claimed

_DIGEST_BYTES = 32
_NEWEST, _BEFORE = "state.pt", "before.pt"


@contextlib.contextmanager
def claimed_folder(path: Path) -> Iterator[StateFolder | None]:
    """The folder of one training's states, which is this process's own in the block.

    None if another process has it: of two equal trainings at a time the second goes without. A folder that has
    become needless is deleted after the block: what comes after a training can be interrupted too. So is that of a
    training which has diverged, from which nothing leads on.
    """
    with claimed(path) as is_mine:
        if not is_mine:
            told = "warning: another process makes the same training, so this one is not kept to be resumed"
            print(told, file=sys.stderr)
            yield None
            return
        folder = StateFolder(path)
        try:
            yield folder
        except Diverged:
            shutil.rmtree(path, ignore_errors=True)
            raise
        if folder.is_needless:
            shutil.rmtree(path, ignore_errors=True)


class StateFolder:
    """The last two states of one training. A file is whole, or known not to be by the hash that it starts with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.is_needless = False
        """whether there is nothing to go on with, since the training is done"""

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole; None without one. Damaged files are set aside with a warning."""
        for path in (self._folder / _NEWEST, self._folder / _BEFORE):
            if not path.is_file():
                continue
            try:
                return _read(path)
            except (ValueError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
                aside = path.with_suffix(".damaged")
                path.replace(aside)
                reason = " ".join(str(error).split())[:200]
                print(f"warning: {path} is damaged ({reason}); set aside as {aside.name}", file=sys.stderr)
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Raises `OSError` if the disk does not take it; the states before it stay."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        newest = self._folder / _NEWEST
        coming = self._folder / "coming.pt"
        with written_whole(coming) as partial, partial.open("wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        if newest.is_file():
            newest.replace(self._folder / _BEFORE)
        coming.replace(newest)


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        raise ValueError("its hash is another")
    state: dict[str, Any] = torch.load(io.BytesIO(content[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    return state


def random_states(device: torch.device) -> dict[str, Any]:
    """Every generator that a network or a library may draw from."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (the one that others draw from)
    legacy = (name, np.asarray(keys).tolist(), *rest)
    states = {"python": random.getstate(), "numpy": legacy, "torch": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def frozen(value: Any) -> Any:
    """A copy in which no tensor is shared with the original, on the same devices and in the same memory layout."""
    pairs: dict[tuple[torch.device, torch.dtype], list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            pairs.setdefault((value.device, value.dtype), []).append((torch.empty_like(value), value.detach()))
            return pairs[value.device, value.dtype][-1][0]
        if isinstance(value, dict):
            return {key: copied(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(copied(item) for item in value)
        return value

    copy = copied(value)
    with torch.no_grad():
        for same in pairs.values():
            # By a kernel or two for all: hundreds of single ones would keep a GPU waiting at every epoch's end.
            torch._foreach_copy_([empty for empty, _ in same], [tensor for _, tensor in same])
    return copy
