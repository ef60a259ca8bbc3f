"""Message bodies compressed by producers: zlib streams, LZ4 frames, zstd frames (reference 3.2).

Every decompression has a ceiling, so that a small body cannot claim unbounded memory.
"""

from __future__ import annotations

import zlib
from typing import Final

import lz4.frame
import zstandard

from ..errors import DecodeError
from .codes import SysFlag

__all__ = ["MAX_BODY", "compress", "decompress"]

MAX_BODY: Final = 4 * 1024 * 1024
"""Ceiling of one decompressed body in bytes: the broker's maxMessageSize default."""


def decompress(body: bytes, sys_flag: int, limit: int = MAX_BODY) -> bytes:
    """The body as published. Raises DecodeError: unknown compression, corrupt or truncated data, over `limit`."""
    kind = sys_flag & SysFlag.COMPRESSION_MASK
    try:
        if kind in (0, SysFlag.COMPRESSION_ZLIB):
            return _unzlib(body, limit)
        if kind == SysFlag.COMPRESSION_LZ4:
            return _unlz4(body, limit)
        if kind == SysFlag.COMPRESSION_ZSTD:
            return _unzstd(body, limit)
    except (zlib.error, RuntimeError, EOFError, zstandard.ZstdError, MemoryError) as error:
        raise DecodeError(f"compressed body is corrupt: {error}") from None
    raise DecodeError(f"unknown compression type {kind >> 8} (sysFlag {sys_flag:#x})")


def _unzlib(body: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    data = stream.decompress(body, limit + 1)
    return _whole(data, complete=stream.eof, limit=limit)


def _unlz4(body: bytes, limit: int) -> bytes:
    stream = lz4.frame.LZ4FrameDecompressor()
    data: bytes = stream.decompress(body, max_length=limit + 1)
    return _whole(data, complete=stream.eof, limit=limit)


def _unzstd(body: bytes, limit: int) -> bytes:
    # The frames carry no content size, and a one-shot decoder needs it: read a stream instead.
    stream = zstandard.ZstdDecompressor(max_window_size=2 * MAX_BODY).decompressobj()
    reader = zstandard.ZstdDecompressor(max_window_size=2 * MAX_BODY).stream_reader(body)
    data = reader.read(limit + 1)
    if len(data) <= limit:
        stream.decompress(body)  # bounded now; only this form tells whether the frame ended
        return _whole(data, complete=stream.eof, limit=limit)
    return _whole(data, complete=False, limit=limit)


def _whole(data: bytes, *, complete: bool, limit: int) -> bytes:
    if len(data) > limit:
        raise DecodeError(f"compressed body unpacks to more than {limit} bytes")
    if not complete:
        raise DecodeError("compressed body is truncated")
    return data


def compress(body: bytes, kind: SysFlag = SysFlag.COMPRESSION_ZLIB) -> tuple[bytes, int]:
    """The body compressed as a Java producer does, and the sysFlag bits that say so."""
    if kind == SysFlag.COMPRESSION_ZLIB:
        packed = zlib.compress(body, 5)
    elif kind == SysFlag.COMPRESSION_LZ4:
        packed = lz4.frame.compress(body, content_checksum=False, store_size=False)
    elif kind == SysFlag.COMPRESSION_ZSTD:
        packed = zstandard.ZstdCompressor(write_content_size=False).compress(body)
    else:
        raise ValueError(f"unknown compression {kind!r}")
    return packed, SysFlag.COMPRESSED | kind
