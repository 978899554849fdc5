"""HDF5 datasets read along their first axis, chunks inflated side by side.

HDF5 inflates one chunk at a time under a lock of its own. Here the stored chunks are taken as they are, inflated by
ISA-L (twice as fast as zlib) in threads, which need no lock for it, and copied straight to where they are wanted,
in whatever order of axes that is. Only the commonest storage is done here: chunks without a filter, deflated,
shuffled or both. Anything else is left to HDF5, and so is a chunk that could not be decoded: HDF5 has the last word
on what is damaged.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import h5py
import numpy as np
from isal import igzip_lib

TASK_BYTES = 2**20
"""Of decoded chunks to a thread at a time: 1 ms of work, against some 50 µs that handing it over takes."""
UNPACKED_AT_ONCE_BYTES = 64 * 2**20
"""Of decoded chunks, while a dataset is unpacked as a whole: flat memory on a machine of any number of cores."""

Decoder = Callable[[bytes, int, int], "bytes | np.ndarray"]
"""Undoes one filter: (stored bytes, size of the chunk in bytes, size of an element in bytes)."""

UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError, OverflowError)
"""What h5py raises on damaged files and refused requests, depending on what breaks first."""


class UnreadableRows(Exception):
    """Rows `start` to `stop` (exclusive) of the dataset `name` cannot be read; the text says why."""

    def __init__(self, name: str, start: int, stop: int, reason: object) -> None:
        super().__init__(str(reason))
        self.name, self.start, self.stop = name, start, stop


def inflate(stored: bytes, size: int, _item: int) -> bytes:
    """Undo deflate. Raises `ValueError` or an error of the library unless exactly `size` bytes come out."""
    stream = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_ZLIB)
    # One byte more than wanted, never more: a few kilobytes can deflate gigabytes.
    found: bytes = stream.decompress(stored, size + 1)
    if len(found) != size or not stream.eof:
        raise ValueError(f"{len(found)} bytes inflated instead of {size}")
    return found


def unshuffle(stored: bytes | np.ndarray, _size: int, item: int) -> np.ndarray:
    """Put the bytes of each element together, which the filter sorted by their place in it."""
    return np.ascontiguousarray(np.frombuffer(stored, np.uint8).reshape(item, -1).T)


DECODERS: dict[int, Decoder] = {h5py.h5z.FILTER_DEFLATE: inflate, h5py.h5z.FILTER_SHUFFLE: unshuffle}


class ChunkedRows:
    """Rows (what lies at one index of the first axis) of an open dataset, chunks decoded in the threads of `pool`.

    A chunk is decoded once for each call of `read` that wants rows of it. With `unpacked` all are decoded once, at
    the first read, into a temporary file without a name, for datasets whose chunks hold more rows than one
    wants to read at a time.

    Calls may come from several threads. Raises `UnreadableRows`, also where there is no space to unpack to.
    """

    def __init__(self, dataset: h5py.Dataset, pool: ThreadPoolExecutor, *, unpacked: bool = False) -> None:
        self._dataset = dataset
        self._pool = pool
        self.name = str(dataset.name).lstrip("/")
        self._lock = threading.Lock()
        self._unpacked: np.ndarray | None = None
        self._to_unpack = unpacked and dataset.chunks is not None and dataset.size > 0
        self._decoders = _decoders_of(dataset)
        self._stored: dict[tuple[int, ...], tuple[int, int]] = {}
        """(filter mask, stored bytes) of each chunk that is stored, by the index of its first element"""
        if self._decoders is not None:
            try:
                dataset.id.chunk_iter(self._note)
                self._fill = dataset.fillvalue
            except UNREADABLE as error:
                raise UnreadableRows(self.name, 0, len(dataset), error) from error

    def _note(self, chunk: h5py.h5d.StoreInfo) -> None:
        # Of a chunk that a damaged file names twice nobody knows which one HDF5 finds: no size is right then.
        size = -1 if chunk.chunk_offset in self._stored else chunk.size
        self._stored[chunk.chunk_offset] = chunk.filter_mask, size

    def read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Fill `out`, of any strides, with rows `start` to `stop` (exclusive)."""
        finish(self.begin(start, stop, out))

    def begin(self, start: int, stop: int, out: np.ndarray) -> list[Future[None]]:
        """`read` as pieces of work that are on their way; `finish` waits for them."""
        if self._to_unpack:
            with self._lock:
                if self._unpacked is None:
                    self._unpacked = self._unpack()
            return [self._pool.submit(self._copy_unpacked, row, out[row - start]) for row in range(start, stop)]
        if self._decoders is None:
            block = self._by_hdf5((slice(start, stop), ...))
            return [self._pool.submit(np.copyto, out[row], block[row]) for row in range(stop - start)]
        corners = list(self._corners(start, stop))
        chunk_bytes = math.prod(self._dataset.chunks) * self._dataset.dtype.itemsize
        step = max(1, TASK_BYTES // chunk_bytes)
        return [
            self._pool.submit(self._place_all, corners[first : first + step], start, stop, out)
            for first in range(0, len(corners), step)
        ]

    def _corners(self, start: int, stop: int) -> Iterator[tuple[int, ...]]:
        """The index of the first element of each chunk that has rows from `start` to `stop`."""
        span, *sides = self._dataset.chunks
        grid = [range(0, length, side) for length, side in zip(self._dataset.shape[1:], sides, strict=True)]
        for first in range(start // span * span, stop, span):
            yield from itertools.product((first,), *grid)

    def _place_all(self, corners: list[tuple[int, ...]], start: int, stop: int, out: np.ndarray) -> None:
        for corner in corners:
            self._place(corner, start, stop, out)

    def _place(self, corner: tuple[int, ...], start: int, stop: int, out: np.ndarray) -> None:
        """Decode one chunk and copy its part of rows `start` to `stop` to `out`."""
        shape, chunk = self._dataset.shape, self._dataset.chunks
        first, last = max(start, corner[0]), min(stop, corner[0] + chunk[0])
        rest = [
            slice(low, min(low + side, end))
            for low, side, end in zip(corner[1:], chunk[1:], shape[1:], strict=True)
        ]
        target = out[(slice(first - start, last - start), *rest)]
        if corner not in self._stored:
            target[...] = self._fill
            return
        mask, stored = self._stored[corner]
        decoders = [
            decode
            for position, decode in enumerate(self._decoders or ())
            if not mask >> position & 1  # the bit of a filter that was left out for this chunk
        ]
        size = math.prod(chunk) * self._dataset.dtype.itemsize
        # HDF5 allocates the size of a chunk where there is no filter: of more it then writes what comes behind the
        # end of that, of less it gives what was in the memory before.
        if not decoders and stored != size:
            raise UnreadableRows(self.name, first, last, f"a chunk without filters has {stored} bytes, not {size}")
        try:
            block = self._decode(corner, decoders, size)
        except Exception:
            target[...] = self._by_hdf5((slice(first, last), *rest))
            return
        inside = [slice(part.stop - part.start) for part in rest]
        target[...] = block[(slice(first - corner[0], last - corner[0]), *inside)]

    def _decode(self, corner: tuple[int, ...], decoders: list[Decoder], size: int) -> np.ndarray:
        dtype = self._dataset.dtype
        _, content = self._dataset.id.read_direct_chunk(corner)
        for decode in reversed(decoders):
            content = decode(content, size, dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(self._dataset.chunks)

    def _by_hdf5(self, region: tuple) -> np.ndarray:
        try:
            block: np.ndarray = self._dataset[region]
        except UNREADABLE as error:
            raise UnreadableRows(self.name, region[0].start, region[0].stop, error) from error
        return block

    def _unpack(self) -> np.ndarray:
        """The whole dataset, mapped from a file that vanishes with the last reference to it."""
        shape, dtype, chunk = self._dataset.shape, self._dataset.dtype, self._dataset.chunks
        size = math.prod(shape) * dtype.itemsize
        try:
            with tempfile.TemporaryFile() as file:
                _reserve(file.fileno(), size)
                self._map = mmap.mmap(file.fileno(), 0)
        except OSError as error:
            reason = (
                f"its chunks span {chunk[0]} of them, and unpacking them all takes {size / 1e6:.0f} MB in "
                f"{tempfile.gettempdir()} ({error.strerror}); free some space or set TMPDIR"
            )
            raise UnreadableRows(self.name, 0, shape[0], reason) from error
        whole = np.frombuffer(self._map, dtype).reshape(shape)

        def unpack(corner: tuple[int, ...]) -> None:
            if self._decoders is None:
                region = tuple(
                    slice(low, min(low + side, end)) for low, side, end in zip(corner, chunk, shape, strict=True)
                )
                whole[region] = self._by_hdf5(region)
            else:
                self._place(corner, 0, shape[0], whole)
            self._forget_pages()

        at_once = max(1, UNPACKED_AT_ONCE_BYTES // (math.prod(chunk) * dtype.itemsize))
        under_way: set[Future[None]] = set()
        for corner in self._corners(0, shape[0]):
            if len(under_way) >= at_once:
                done, under_way = wait(under_way, return_when="FIRST_COMPLETED")
                finish(done)
            under_way.add(self._pool.submit(unpack, corner))
        finish(under_way)
        return whole

    def _copy_unpacked(self, row: int, out: np.ndarray) -> None:
        assert self._unpacked is not None
        np.copyto(out, self._unpacked[row])
        self._forget_pages()

    def _forget_pages(self) -> None:
        """Take the file's pages out of this process's resident set. They stay in the system's cache."""
        self._map.madvise(mmap.MADV_DONTNEED)


def finish(work: Iterable[Future[None]]) -> None:
    """Wait until all is done, or raise the first error; what has not begun by then is given up."""
    work = list(work)
    try:
        done, _ = wait(work, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    finally:
        # Whoever goes on may free or reuse what they write to. (A pool that is shut down never tells of those that
        # it has not begun.)
        wait([future for future in work if not future.cancel()])


def _decoders_of(dataset: h5py.Dataset) -> list[Decoder] | None:
    """What undoes the dataset's filters, the last first applied last; None if HDF5 has to read it."""
    layout = dataset.id.get_create_plist()
    if dataset.chunks is None or dataset.is_virtual:
        return None
    # What HDF5 gives for chunks that were never written is no business of anybody else's then.
    if (
        layout.get_fill_time() == h5py.h5d.FILL_TIME_NEVER
        or layout.fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED
    ):
        return None
    # Elements that numpy holds as they are stored, byte for byte: no enumerations, strings or odd widths.
    if dataset.dtype.kind not in "iuf" or dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype):
        return None
    filters = [layout.get_filter(index)[0] for index in range(layout.get_nfilters())]
    if any(number not in DECODERS for number in filters):
        return None
    return [DECODERS[number] for number in filters]


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size and its place on the disk: a full one must show now, not in a store to mapped memory."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    with os.fdopen(os.dup(descriptor), "wb") as file:
        for written in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - written)))
