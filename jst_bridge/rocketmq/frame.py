"""Frames and headers of RocketMQ remoting (reference section 1): bytes in, values out, no I/O.

    4 bytes  length of what follows
    4 bytes  high byte: header form (0 JSON, 1 binary); low 24 bits: header length
    header, then body

Both header forms are read, each frame by its own form byte (1.7); JSON is written.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from ..errors import DecodeError
from .codes import CLIENT_VERSION, FrameFlag

__all__ = ["MAX_FRAME", "MAX_HEADER", "Frame", "FrameReader", "decode_frame", "encode_frame"]

MAX_FRAME: Final = 16 * 1024 * 1024
"""Ceiling of a whole frame in bytes, its length field included: the servers' own limit (1.1)."""
MAX_HEADER: Final = 1024 * 1024
"""Ceiling of a header in bytes: real ones stay below 64 KiB, and each byte of small fields takes ten when read."""

LANGUAGES: Final = (
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY",
    "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST", "NODE_JS",
)  # fmt: skip

_JSON, _BINARY = 0, 1
_PREFIX = struct.Struct(">II")
_LENGTH = struct.Struct(">I")
_BINARY_HEAD = struct.Struct(">hBhii")
_INT32 = struct.Struct(">i")
_INT16 = struct.Struct(">h")


class Frame(msgspec.Struct, gc=False):
    """One remoting command. `ext` holds its named fields, `body` the payload."""

    code: int
    """Request code, or response code when `is_response`."""
    opaque: int = 0
    """int32, chosen by the requester and echoed by the answer."""
    flag: int = 0
    ext: dict[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""
    remark: str = ""
    language: str = "PYTHON"
    version: int = CLIENT_VERSION

    @property
    def is_response(self) -> bool:
        return bool(self.flag & FrameFlag.RESPONSE)

    @property
    def is_oneway(self) -> bool:
        return bool(self.flag & FrameFlag.ONEWAY)


class _Header(
    msgspec.Struct, rename={"ext": "extFields", "form": "serializeTypeCurrentRPC"}, omit_defaults=True
):
    code: int
    flag: int
    language: str
    opaque: int
    version: int
    form: str = "json"  # never the value, so that it is always written
    remark: str | None = None
    ext: dict[str, str] | None = None


class _ReadHeader(msgspec.Struct, rename={"ext": "extFields"}):
    code: int
    flag: int = 0
    language: str | int | None = None
    opaque: int = 0
    version: int = 0
    remark: str | None = None
    ext: dict[str, str] | None = None


class _LooseHeader(msgspec.Struct, rename={"ext": "extFields"}):
    code: int
    flag: int | None = 0
    language: Any = None
    opaque: int = 0
    version: int | None = 0
    remark: Any = None
    ext: dict[str, str | int | float | bool | None] | None = None


_write_header = msgspec.json.Encoder().encode
_read_header = msgspec.json.Decoder(_ReadHeader).decode
_read_loose_header = msgspec.json.Decoder(_LooseHeader, strict=False).decode


def encode_frame(frame: Frame) -> bytes:
    """The frame in the JSON header form, ready to be sent.

    Raises DecodeError when it would exceed MAX_FRAME: a server closes the socket on that.
    """
    header = _write_header(
        _Header(
            code=frame.code,
            flag=frame.flag,
            language=frame.language,
            opaque=frame.opaque,
            version=frame.version,
            remark=frame.remark or None,
            # Several broker paths read the map without a null check: a request always carries one (1.2).
            ext=frame.ext if frame.ext or not frame.is_response else None,
            form="JSON",
        )
    )
    length = 4 + len(header) + len(frame.body)
    if 4 + length > MAX_FRAME:
        raise DecodeError(f"a frame of {4 + length} bytes exceeds the protocol's limit of {MAX_FRAME}")
    return _PREFIX.pack(length, len(header)) + header + frame.body


def decode_frame(data: bytes) -> Frame:
    """Decode one whole frame, its length field included. Raises DecodeError."""
    if len(data) < 8:
        raise DecodeError(f"a frame needs at least 8 bytes, got {len(data)}")
    length, word = _PREFIX.unpack_from(data)
    header_length = word & 0xFFFFFF
    if length + 4 != len(data):
        raise DecodeError(f"frame length says {length + 4} bytes, got {len(data)}")
    if not 0 < header_length <= length - 4:
        raise DecodeError(f"header length {header_length} does not fit a frame of {length} bytes")
    if header_length > MAX_HEADER:
        raise DecodeError(f"a header of {header_length} bytes exceeds the limit of {MAX_HEADER}")
    header = data[8 : 8 + header_length]
    body = data[8 + header_length :]
    form = word >> 24
    if form == _JSON:
        return _decode_json(header, body)
    if form == _BINARY:
        return _decode_binary(header, body)
    raise DecodeError(f"unknown header form {form}")


def _decode_json(header: bytes, body: bytes) -> Frame:
    try:
        try:
            head = _read_header(header)
            ext = head.ext or {}
            remark = head.remark or ""
            version, flag = head.version, head.flag
        except msgspec.ValidationError:
            # Some clients write numbers and booleans as ext values; readers stringify them (1.2).
            loose = _read_loose_header(header)
            head = loose  # type: ignore[assignment]
            ext = {key: _as_text(value) for key, value in (loose.ext or {}).items() if value is not None}
            remark = "" if loose.remark is None else str(loose.remark)
            version, flag = loose.version or 0, loose.flag or 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DecodeError(f"frame header is not the JSON it claims to be: {error}") from None
    if not (-(2**31) <= head.opaque < 2**31 and -(2**31) <= flag < 2**31 and -(2**31) <= head.code < 2**31):
        raise DecodeError("frame header holds a number beyond 32 bits")
    language = head.language
    if isinstance(language, int):
        language = LANGUAGES[language] if 0 <= language < len(LANGUAGES) else "OTHER"
    return Frame(head.code, head.opaque, flag, ext, body, remark, str(language or "OTHER"), version)


def _as_text(value: str | int | float | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _decode_binary(header: bytes, body: bytes) -> Frame:
    try:
        code, language, version, opaque, flag = _BINARY_HEAD.unpack_from(header)
        remark, at = _binary_text(header, _BINARY_HEAD.size, _INT32)
        (ext_length,) = _INT32.unpack_from(header, at)
        at += 4
        end = at + ext_length
        if ext_length < 0 or end > len(header):
            raise DecodeError(f"ext block of {ext_length} bytes does not fit a header of {len(header)}")
        ext: dict[str, str] = {}
        while at < end:
            key, at = _binary_text(header, at, _INT16)
            value, at = _binary_text(header, at, _INT32)
            if at > end:
                raise DecodeError("ext entry runs past the ext block")
            ext[key] = value
    except (struct.error, UnicodeDecodeError) as error:
        raise DecodeError(f"frame header is not the binary form it claims to be: {error}") from None
    name = LANGUAGES[language] if language < len(LANGUAGES) else "OTHER"
    return Frame(code, opaque, flag, ext, body, remark, name, version)


def _binary_text(header: bytes, at: int, size: struct.Struct) -> tuple[str, int]:
    (length,) = size.unpack_from(header, at)
    at += size.size
    if length < 0 or at + length > len(header):
        raise DecodeError(f"text of {length} bytes does not fit a header of {len(header)}")
    return header[at : at + length].decode(), at + length


class FrameReader:
    """Cuts a byte stream into frames, whatever pieces it arrives in.

    Holds at most one unfinished frame. A length beyond MAX_FRAME is refused as soon as it is read,
    before anything is allocated for it.
    """

    __slots__ = ("_buffer", "_need")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = 4

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame held back."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream; return the frames they complete. Raises DecodeError."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        frames: list[Frame] = []
        at, end = 0, len(data)
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            size = length + 4
            if not 8 <= size <= MAX_FRAME:
                raise DecodeError(f"frame of {size} bytes is outside the protocol's 8 to {MAX_FRAME}")
            if end - at < size:
                self._need = size
                break
            frames.append(decode_frame(data[at : at + size]))
            at += size
        else:
            self._need = 4
        self._buffer += data[at:] if at else data
        return frames
