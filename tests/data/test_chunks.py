"""Rows of HDF5 datasets of every storage, against h5py's own reading bit for bit."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data import chunks
from pipeline.data.chunks import ChunkedRows, UnreadableRows, inflate

SHAPE = (7, 3, 13, 10)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


@pytest.fixture
def file(tmp_path: Path) -> Iterator[h5py.File]:
    with h5py.File(tmp_path / "some.h5", "w", userblock_size=512) as opened:
        yield opened


def random_array(dtype: Any, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * 100).astype(dtype)


def assert_read_as_by_h5py(dataset: h5py.Dataset, pool: ThreadPoolExecutor, **options: bool) -> None:
    rows = ChunkedRows(dataset, pool, **options)
    for start, stop in ((0, len(dataset)), (2, 5), (6, 7), (3, 3)):
        expected = dataset[start:stop]
        found = np.full(expected.shape, 55, expected.dtype)
        rows.read(start, stop, found)
        assert found.tobytes() == expected.tobytes()
        turned = np.full(expected.shape[:1] + expected.shape[:0:-1], 55, expected.dtype)
        rows.read(start, stop, turned.transpose(0, *range(expected.ndim - 1, 0, -1)))
        np.testing.assert_array_equal(turned, expected.transpose(0, *range(expected.ndim - 1, 0, -1)))


LAYOUTS = {
    "one row": {"chunks": (1, 3, 13, 10), "compression": "gzip"},
    "spanning rows": {"chunks": (2, 1, 13, 10), "compression": "gzip"},
    "edges everywhere": {"chunks": (3, 2, 5, 4), "compression": "gzip"},
    "whole columns": {"chunks": (7, 1, 2, 10), "compression": "gzip"},
    "one chunk": {"chunks": SHAPE, "compression": "gzip", "compression_opts": 9},
    "uncompressed": {"chunks": (2, 2, 5, 4)},
    "shuffled and deflated": {"chunks": (2, 2, 5, 4), "compression": "gzip", "shuffle": True},
    "shuffled": {"chunks": (2, 2, 5, 4), "shuffle": True},
    "contiguous": {},
    "with checksums": {"chunks": (2, 2, 5, 4), "compression": "gzip", "fletcher32": True},
    "lzf": {"chunks": (2, 2, 5, 4), "compression": "lzf"},
    "scale and offset": {"chunks": (2, 2, 5, 4), "scaleoffset": 0},
}


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "<f4", ">i2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_what_h5py_reads_whatever_the_storage(
    file: h5py.File, pool: ThreadPoolExecutor, layout: str, dtype: str, unpacked: bool
) -> None:
    if layout == "scale and offset" and dtype == "<f4":
        layout = "lzf"  # it rounds floats
    dataset = file.create_dataset("x", data=random_array(dtype), **LAYOUTS[layout])
    assert_read_as_by_h5py(dataset, pool, unpacked=unpacked)


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_are_what_h5py_reads_for_any_shape_and_chunk(pool: ThreadPoolExecutor, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4)))
    chunk = tuple(data.draw(st.integers(1, side)) for side in shape)
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    with h5py.File.in_memory() as file:
        written = random_array(np.uint16, shape)
        dataset = file.create_dataset(
            "x", data=written, chunks=chunk, compression="gzip", shuffle=data.draw(st.booleans())
        )
        found = np.empty((stop - start, *shape[1:]), np.uint16)
        ChunkedRows(dataset, pool, unpacked=data.draw(st.booleans())).read(start, stop, found)
    np.testing.assert_array_equal(found, written[start:stop])


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("fill", [0, 7.5, np.nan])
def test_chunks_that_were_never_written_hold_the_fill_value(
    file: h5py.File, pool: ThreadPoolExecutor, fill: float, unpacked: bool
) -> None:
    dataset = file.create_dataset("x", SHAPE, "f4", chunks=(2, 1, 5, 4), compression="gzip", fillvalue=fill)
    dataset[3, 1] = random_array("f4")[3, 1]
    assert_read_as_by_h5py(dataset, pool, unpacked=unpacked)


def test_a_dataset_without_a_single_chunk_is_read(file: h5py.File, pool: ThreadPoolExecutor) -> None:
    dataset = file.create_dataset("x", SHAPE, "u1", chunks=(2, 1, 5, 4), compression="gzip", fillvalue=9)
    assert_read_as_by_h5py(dataset, pool)


@pytest.mark.parametrize("fill_time", ["never", "alloc"])
def test_other_times_of_filling_are_left_to_hdf5(file: h5py.File, pool: ThreadPoolExecutor, fill_time: str) -> None:
    dataset = file.create_dataset("x", SHAPE, "u1", chunks=(2, 1, 5, 4), fill_time=fill_time)
    dataset[...] = random_array("u1")
    assert_read_as_by_h5py(dataset, pool)


def test_filters_that_a_chunk_was_written_without_are_not_undone(file: h5py.File, pool: ThreadPoolExecutor) -> None:
    dataset = file.create_dataset("x", (8, 6), "<i4", chunks=(2, 6), compression="gzip", shuffle=True)
    values = np.arange(48, dtype="<i4").reshape(8, 6)
    plain = [values[row : row + 2].tobytes() for row in (0, 2, 4, 6)]
    shuffled = [np.frombuffer(part, np.uint8).reshape(-1, 4).T.tobytes() for part in plain]
    # Bit 0 leaves out the first filter, shuffle; bit 1 the second, deflate.
    dataset.id.write_direct_chunk((0, 0), zlib.compress(shuffled[0]), 0b00)
    dataset.id.write_direct_chunk((2, 0), zlib.compress(plain[1]), 0b01)
    dataset.id.write_direct_chunk((4, 0), shuffled[2], 0b10)
    dataset.id.write_direct_chunk((6, 0), plain[3], 0b11)
    np.testing.assert_array_equal(dataset[()], values)
    assert_read_as_by_h5py(dataset, pool)


def test_a_virtual_a_compact_and_an_external_dataset_are_read(
    file: h5py.File, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    values = random_array("f4")
    source = file.create_dataset("source", data=values, chunks=(2, 1, 5, 4), compression="gzip")
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[...] = h5py.VirtualSource(source)
    assert_read_as_by_h5py(file.create_virtual_dataset("virtual", layout), pool)
    assert_read_as_by_h5py(
        file.create_dataset("external", data=values, external=[(str(tmp_path / "outside.bin"), 0, values.nbytes)]),
        pool,
    )
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(SHAPE)
    identifier = h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, properties)
    compact = h5py.Dataset(identifier)
    compact[...] = values
    assert_read_as_by_h5py(compact, pool)


def test_elements_that_numpy_does_not_hold_as_they_are_stored_are_left_to_hdf5(
    file: h5py.File, pool: ThreadPoolExecutor
) -> None:
    kind = h5py.enum_dtype({"no": 0, "yes": 1}, basetype="i1")
    flags = file.create_dataset("flags", data=np.eye(6, dtype="i1"), dtype=kind, chunks=(2, 6), compression="gzip")
    truths = file.create_dataset("truths", data=np.eye(6) > 0, chunks=(2, 6), compression="gzip")
    for dataset in (flags, truths):
        found = np.empty((6, 6), dataset.dtype)
        ChunkedRows(dataset, pool).read(0, 6, found)
        np.testing.assert_array_equal(found, np.eye(6))


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each stored chunk was inflated."""
    count: Counter[bytes] = Counter()
    lock = threading.Lock()

    def counted(stored: bytes, size: int, item: int) -> bytes:
        with lock:
            count[stored] += 1
        return inflate(stored, size, item)

    monkeypatch.setitem(chunks.DECODERS, h5py.h5z.FILTER_DEFLATE, counted)
    return count


@pytest.mark.parametrize(
    ("chunk", "step", "unpacked"),
    [((2, 3, 13, 10), 2, False), ((2, 1, 5, 4), 6, False), ((7, 1, 2, 10), 1, True), ((5, 3, 4, 4), 2, True)],
)
def test_each_chunk_is_inflated_once(
    file: h5py.File,
    pool: ThreadPoolExecutor,
    inflated: Counter[bytes],
    chunk: tuple[int, ...],
    step: int,
    unpacked: bool,
) -> None:
    values = random_array("f4")
    dataset = file.create_dataset("x", data=values, chunks=chunk, compression="gzip")
    rows = ChunkedRows(dataset, pool, unpacked=unpacked)
    found = np.empty_like(values)
    for start in range(0, 7, step):
        rows.read(start, min(start + step, 7), found[start : start + step])
    np.testing.assert_array_equal(found, values)
    assert set(inflated.values()) == {1}
    assert len(inflated) == dataset.id.get_num_chunks()


def test_several_threads_unpack_a_dataset_once(
    file: h5py.File, pool: ThreadPoolExecutor, inflated: Counter[bytes]
) -> None:
    values = random_array("f4")
    rows = ChunkedRows(
        file.create_dataset("x", data=values, chunks=(7, 1, 2, 10), compression="gzip"), pool, unpacked=True
    )
    found = np.empty_like(values)
    with ThreadPoolExecutor(4) as readers:
        for work in [readers.submit(rows.read, row, row + 1, found[row : row + 1]) for row in range(7)]:
            work.result()
    np.testing.assert_array_equal(found, values)
    assert set(inflated.values()) == {1}


def damaged(kind: str, content: bytes) -> bytes:
    packed = zlib.compress(content)
    return {
        "no deflate stream": b"\xff" * len(packed),
        "nothing": b"\0",
        "cut short": packed[: len(packed) // 2],
        "wrong checksum": packed[:-1] + bytes([packed[-1] ^ 1]),
        "one bit": packed[:20] + bytes([packed[20] ^ 1]) + packed[21:],
    }[kind]


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("kind", ["no deflate stream", "nothing", "cut short", "wrong checksum", "one bit"])
def test_a_damaged_chunk_is_named_with_its_rows_and_spoils_no_others(
    file: h5py.File, pool: ThreadPoolExecutor, kind: str, unpacked: bool
) -> None:
    values = random_array("f4")
    dataset = file.create_dataset("depths", data=values, chunks=(2, 3, 13, 10), compression="gzip")
    dataset.id.write_direct_chunk((4, 0, 0, 0), damaged(kind, values[4:6].tobytes()))
    rows = ChunkedRows(dataset, pool, unpacked=unpacked)
    if not unpacked:
        found = np.empty_like(values[:4])
        rows.read(0, 4, found)
        np.testing.assert_array_equal(found, values[:4])
    with pytest.raises(UnreadableRows) as caught:
        rows.read(0, 7, np.empty_like(values))
    assert (caught.value.name, caught.value.start, caught.value.stop) == ("depths", 4, 6)


def test_a_chunk_that_inflates_to_the_wrong_size_is_no_more_than_hdf5_makes_of_it(
    file: h5py.File, pool: ThreadPoolExecutor
) -> None:
    dataset = file.create_dataset("x", (2, 64), "u1", chunks=(1, 64), compression="gzip")
    dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(range(64)) * 1_000_000))
    dataset.id.write_direct_chunk((1, 0), zlib.compress(bytes(64)))
    found = np.empty((1, 64), np.uint8)
    ChunkedRows(dataset, pool).read(1, 2, found)
    assert not found.any()
    with pytest.raises(ValueError, match="65 bytes inflated instead of 64"):
        inflate(zlib.compress(bytes(10_000_000)), 64, 1)


def test_unpacking_needs_space_on_the_disk_and_says_so(file: h5py.File, pool: ThreadPoolExecutor) -> None:
    dataset = file.create_dataset("x", data=random_array("f4"), chunks=(7, 1, 2, 10), compression="gzip")
    file.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(
            UnreadableRows, match=r"takes 0 MB in .*\(File too large\); free some space or set TMPDIR"
        ):
            ChunkedRows(dataset, pool, unpacked=True).read(0, 1, np.empty((1, *SHAPE[1:]), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


READ_IT = """
import sys, h5py, numpy as np
from concurrent.futures import ThreadPoolExecutor
from pipeline.data.chunks import ChunkedRows, UnreadableRows
with h5py.File(sys.argv[1]) as file, ThreadPoolExecutor(2) as pool:
    rows = ChunkedRows(file["x"], pool)
    for _ in range(50):
        try:
            rows.read(0, 3, np.empty(file["x"].shape, np.uint8))
        except UnreadableRows as error:
            told = str(error)
    print(told)
"""


@pytest.mark.parametrize("values", [256, 2])
def test_a_chunk_without_filters_that_is_longer_or_shorter_than_it_may_be_is_told(
    tmp_path: Path, values: int
) -> None:
    noise = np.random.default_rng(0).integers(0, values, (3, 3, 32, 48), np.uint8)
    with h5py.File(tmp_path / "some.h5", "w") as file:
        dataset = file.create_dataset("x", data=noise, chunks=(1, 3, 32, 48), compression="gzip")
        stored = dataset.id.get_chunk_info(0).size
    content = bytearray((tmp_path / "some.h5").read_bytes())
    # Deflated noise is longer than noise. Without the message of the filters, 24 bytes before the name of the
    # first, nothing says that it is deflated; the library then overran its buffer, which ended the process. Of the
    # shorter one h5py gives what the memory held before.
    message = content.index(b"deflate") - 24
    assert content[message : message + 4] == b"\x0b\0\x20\0"
    content[message] = 0
    (tmp_path / "some.h5").write_bytes(content)
    read = subprocess.run(
        [sys.executable, "-c", READ_IT, str(tmp_path / "some.h5")], capture_output=True, text=True, check=False
    )
    assert (read.returncode, read.stdout, read.stderr) == (
        0,
        f"a chunk without filters has {stored} bytes, not 4608\n",
        "",
    )
    assert (stored > 4608) == (values == 256)


@pytest.mark.parametrize("rows", [7, None])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_index_of_chunks_without_filters_is_read(
    tmp_path: Path, pool: ThreadPoolExecutor, libver: str, rows: int | None
) -> None:
    with h5py.File(tmp_path / "some.h5", "w", libver=libver) as file:
        for name, chunk in (("some", (2, 2, 5, 4)), ("one", SHAPE)):
            dataset = file.create_dataset(name, data=random_array("f4"), chunks=chunk, maxshape=(rows, *SHAPE[1:]))
            assert_read_as_by_h5py(dataset, pool)
