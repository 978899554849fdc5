"""Numbers of MATLAB v5 files, against scipy's reader and writer."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from pipeline.data.mat5 import MOST_BYTES, Mat5Error, read_numbers

TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def saved(variables: dict[str, object], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_of_every_type_are_what_scipy_reads(dtype: str, compressed: bool) -> None:
    random = np.random.default_rng(0)
    variables: dict[str, object] = {
        f"v{count}": (random.random((rows, count)) * 120).astype(dtype)
        for count, rows in ((0, 1), (1, 1), (2, 1), (3, 1), (5, 3), (300, 2))
    }
    content = saved(variables, compressed=compressed)
    expected = loadmat(io.BytesIO(content))
    found = read_numbers(content, variables)
    assert set(found) == set(variables)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name].ravel(order="F"))


def test_other_variables_are_passed_over_and_so_are_wanted_names_that_hold_no_numbers() -> None:
    content = saved(
        {
            "text": "abc",
            "cell": np.array([[1, "a"]], dtype=object),
            "struct": {"a": 1, "b": "c"},
            "complex": np.array([1 + 2j]),
            "flag": np.array([True, False]),
            "wanted": [7, 8],
        }
    )
    assert {name: values.tolist() for name, values in read_numbers(content, ["wanted", "text"]).items()} == {
        "wanted": [7, 8]
    }
    assert not read_numbers(content, ["complex"])
    assert read_numbers(content, ["flag"])["flag"].tolist() == [1, 0]


def big_endian(name: bytes, numbers: list[int], *, compressed: bool) -> bytes:
    """As MATLAB on a SPARC wrote it: a double array whose values are stored in 16 bits, written by hand."""
    values = struct.pack(f">{len(numbers)}H", *numbers)
    tagged = (
        struct.pack(">HH4s", len(values), 4, values) if len(values) <= 4 else struct.pack(">II", 4, len(values))
    )
    tagged += b"" if len(values) <= 4 else values + bytes(-len(values) % 8)
    matrix = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, len(numbers), 1)
    matrix += struct.pack(">II", 1, len(name)) + name + bytes(-len(name) % 8) + tagged
    element = struct.pack(">II", 14, len(matrix)) + matrix
    if compressed:
        packed = zlib.compress(element)
        element = struct.pack(">II", 15, len(packed)) + packed
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x0100) + b"MI" + element


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("numbers", [[], [9], [1, 65_535], [3, 2, 1], list(range(1000))])
def test_a_file_of_the_other_byte_order_is_read(numbers: list[int], compressed: bool) -> None:
    content = big_endian(b"trainNdxs", numbers, compressed=compressed)
    assert read_numbers(content, ["trainNdxs"])["trainNdxs"].tolist() == numbers
    if numbers:
        np.testing.assert_array_equal(loadmat(io.BytesIO(content))["trainNdxs"].ravel(), numbers)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_anywhere_is_told(compressed: bool) -> None:
    content = saved({"v": [[1.5, 2.5]]}, compressed=compressed)
    assert read_numbers(content, ["v"])["v"].tolist() == [1.5, 2.5]
    for length in range(len(content)):
        if length != 128:  # the header alone is a file of nothing
            with pytest.raises(Mat5Error):
                read_numbers(content[:length], ["v"])


def test_a_small_file_cannot_inflate_to_gigabytes() -> None:
    bomb = zlib.compress(struct.pack("<II", 14, 2**31) + bytes(2 * MOST_BYTES))
    content = saved({}).ljust(128) + struct.pack("<II", 15, len(bomb)) + bomb
    with pytest.raises(Mat5Error, match="cut short or too large"):
        read_numbers(content, ["v"])
    with pytest.raises(Mat5Error, match="it has 67 MB"):
        read_numbers(bytes(MOST_BYTES + 1), ["v"])
