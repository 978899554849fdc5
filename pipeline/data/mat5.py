"""Numbers from a file of MATLAB v5, read with every length checked.

scipy's reader trusts the file: one changed byte of `splits.mat` ended the process in 12 of 469 places (segmentation
fault). The format is in "MAT-File Format" of The MathWorks, chapter "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

MOST_BYTES = 64 * 2**20
"""Of the file, and of what a compressed variable may become: a few kilobytes can deflate gigabytes."""

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""numpy's type by the format's number"""
_NUMBER_CLASSES = range(6, 16)
"""Classes of arrays that are numbers: double, single, and integers of 8 to 64 bits."""
_IS_COMPLEX = 0x0800


class Mat5Error(ValueError):
    """The content is no such file, or damaged."""


class _Element(NamedTuple):
    type: int
    content: memoryview


def read_numbers(content: bytes, names: Collection[str]) -> dict[str, np.ndarray]:
    """Arrays (n) of the real numbers under these names, column by column; other variables are passed over.

    Types are those they are stored in, which MATLAB chooses as small as the values allow. Raises `Mat5Error`.
    """
    if len(content) > MOST_BYTES:
        raise Mat5Error(f"it has {len(content) / 1e6:.0f} MB")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or len(content) < _HEADER_BYTES:
        raise Mat5Error("it has no header of MATLAB v5")
    found: dict[str, np.ndarray] = {}
    for element in _elements(memoryview(content)[_HEADER_BYTES:], order, padded=False):
        if element.type == _COMPRESSED:
            element = next(_elements(_inflated(element.content), order, padded=False), element)
        if element.type != _MATRIX:
            raise Mat5Error(f"it has an element of type {element.type} where a variable belongs")
        name, values = _variable(element.content, order, names)
        if values is not None:
            found[name] = values
    return found


def _elements(content: memoryview, order: str, *, padded: bool) -> Iterator[_Element]:
    """The elements that follow each other. padded: to 8 bytes each, as they are inside a variable."""
    while content:
        if len(content) < 8:
            raise Mat5Error("it is cut short")
        kind, size = (int(number) for number in np.frombuffer(content[:8], f"{order}u4"))
        if kind >> 16:  # a small one: its size, its type, and up to 4 bytes of content
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise Mat5Error(f"it has a small element of {size} bytes")
            start, end = 4, 8
        else:
            start, end = 8, 8 + size + (-size % 8 if padded else 0)
        if len(content) < end:
            raise Mat5Error("it is cut short")
        yield _Element(kind, content[start : start + size])
        content = content[end:]


def _inflated(stored: memoryview) -> memoryview:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(stored, MOST_BYTES)
    except zlib.error as error:
        raise Mat5Error(f"a compressed variable is damaged: {error}") from error
    if not stream.eof:
        raise Mat5Error("a compressed variable is cut short or too large")
    return memoryview(content)


def _variable(content: memoryview, order: str, names: Collection[str]) -> tuple[str, np.ndarray | None]:
    """Name and values; no values if the name is none of `names`, or if they are no real numbers."""
    parts = _elements(content, order, padded=True)
    flags = _array(parts, order)
    if len(flags) != 2:
        raise Mat5Error("a variable has no array flags")
    kind, is_complex = int(flags[0]) & 0xFF, bool(int(flags[0]) & _IS_COMPLEX)
    if kind not in _NUMBER_CLASSES:
        return "", None
    shape = [int(side) for side in _array(parts, order)]
    name = _array(parts, order).tobytes().decode("latin-1")
    if name not in names or is_complex:
        return name, None
    values = _array(parts, order)
    if len(shape) < 2 or min(shape) < 0 or math.prod(shape) != len(values):
        raise Mat5Error(f"{name} has {len(values)} values for the shape {shape}")
    return name, values


def _array(parts: Iterator[_Element], order: str) -> np.ndarray:
    """The numbers of the next element."""
    element = next(parts, None)
    if element is None or element.type not in _NUMBERS:
        raise Mat5Error("a part of a variable is missing or no array of numbers")
    dtype = np.dtype(order + _NUMBERS[element.type])
    if len(element.content) % dtype.itemsize:
        raise Mat5Error(f"{len(element.content)} bytes are no array of {dtype}")
    return np.frombuffer(element.content, dtype)
