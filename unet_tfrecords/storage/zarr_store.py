"""A folder as zarr sees it: keys are files, on a disk or in an object store.

zarr has stores of its own. This one reads and writes through `files`: the same paths,
the same retries, errors of one line, and files that appear whole.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable
from typing import Any

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files


class FolderStore(Store):
    """The files below a folder, by their paths relative to it."""

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(
        self,
        folder: str,
        *,
        read_only: bool = True,
        has_all_chunks: bool = False,
        are_blosc: bool = False,
    ):
        """A store of a folder.

        Args:
          folder: local or remote.
          read_only: whether nothing may be written.
          has_all_chunks: whether a chunk that is missing is an error; zarr would give
            the fill value.
          are_blosc: whether chunks are Blosc's, which reads past the end of a cut one.
        """
        super().__init__(read_only=read_only)
        self.folder = folder
        self.has_all_chunks, self.are_blosc = has_all_chunks, are_blosc

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FolderStore) and other.folder == self.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    def __str__(self) -> str:
        return self.folder

    def with_read_only(self, read_only: bool = False) -> "FolderStore":
        return FolderStore(
            self.folder,
            read_only=read_only,
            has_all_chunks=self.has_all_chunks,
            are_blosc=self.are_blosc,
        )

    def _path(self, key: str) -> str:
        return files.join(self.folder, key) if key else self.folder

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The content of a key; None where there is none: zarr then fills a chunk."""
        start, end = _limits(byte_range)
        try:
            content = await asyncio.to_thread(
                files.read_range, self._path(key), start, end
            )
        except (FileNotFoundError, NotADirectoryError):
            if self.has_all_chunks and _is_chunk(key):
                raise FileNotFoundError(
                    errno.ENOENT, "no such chunk", self._path(key)
                ) from None
            return None
        if not content:  # zarr would fill a shard
            raise UserError(f"{self._path(key)}: is empty; write the image again")
        if self.are_blosc and _is_chunk(key) and not byte_range:
            self._check_blosc(key, content)
        return prototype.buffer.from_bytes(content)

    def _check_blosc(self, key: str, content: bytes) -> None:
        """By the length in its header (c-blosc, README_CHUNK_FORMAT)."""
        expected = int.from_bytes(content[12:16], "little")
        if len(content) != expected:
            raise UserError(
                f"{self._path(key)}: damaged ({len(content)} bytes, where its header "
                f"says {expected}); write the image again"
            )

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        wanted = (self.get(key, prototype, each) for key, each in key_ranges)
        return list(await asyncio.gather(*wanted))

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(files.is_file, self._path(key))

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await asyncio.to_thread(files.write_bytes, self._path(key), value.to_bytes())

    async def delete(self, key: str) -> None:
        self._check_writable()
        await asyncio.to_thread(files.remove, [self._path(key)])

    async def list(self) -> AsyncIterator[str]:
        for name in await asyncio.to_thread(files.list_below, self.folder):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for name in self.list():
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = self._path(prefix.rstrip("/"))
        inside = await asyncio.to_thread(files.glob_in, folder, "*")
        for path in inside:
            yield files.basename(path)
        for name in await asyncio.to_thread(files.list_folders, folder):
            yield name


def _is_chunk(key: str) -> bool:
    """Whether a key is a chunk's, such as 0/1/2, c/0/1 or 0.1.2, and no metadata's.

    >>> [_is_chunk(key) for key in ("0/c/0/1", "0/1.2", "0/.zarray", "zarr.json")]
    [True, True, False, False]
    """
    return key.rpartition("/")[2].replace(".", "").isdecimal()


def _limits(request: Any) -> tuple[int | None, int | None]:
    """Where a range begins and ends, as slices have it."""
    if isinstance(request, RangeByteRequest):
        return request.start, request.end
    if isinstance(request, OffsetByteRequest):
        return request.offset, None
    if isinstance(request, SuffixByteRequest):
        return -request.suffix, None
    return None, None
