"""One request on its way through a server, and how it is answered."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from jst_bridge.errors import DecodeError
from jst_bridge.rocketmq.codes import FrameFlag, Response
from jst_bridge.rocketmq.frame import Frame, encode_frame
from jst_bridge.rocketmq.loosejson import decode_json

if TYPE_CHECKING:
    from .server import Channel

__all__ = ["Call", "Refusal", "encode_binary"]

_RESPONSE, _ONEWAY = int(FrameFlag.RESPONSE), int(FrameFlag.ONEWAY)
_JAVA: Final = 0
_HEAD = struct.Struct(">hBhiii")
_PREFIX = struct.Struct(">II")
_BINARY_FORM: Final = 1 << 24


class Refusal(Exception):
    """A request is answered with an error code."""

    def __init__(self, code: int, remark: str, ext: dict[str, str] | None = None) -> None:
        super().__init__(remark)
        self.code = code
        self.remark = remark
        self.ext = ext


class Call:
    """A request and the connection it came on. It may be answered later, by whoever keeps it."""

    __slots__ = ("binary", "channel", "ext", "frame", "muted")

    def __init__(self, channel: Channel, frame: Frame) -> None:
        self.channel = channel
        self.frame = frame
        self.ext = frame.ext
        self.muted = False
        """Nobody gets the answer."""
        self.binary = False
        """The answer is written with a binary header."""

    @property
    def topic(self) -> str:
        """The topic it is about, '' when it names none."""
        return self.ext.get("topic") or self.ext.get("b") or self.ext.get("originTopic") or ""

    @property
    def awaited(self) -> bool:
        """Somebody gets the answer."""
        return not (self.muted or self.frame.flag & _ONEWAY)

    def text(self, name: str) -> str:
        """A field that has to be there. Refusal as of a real broker, which meets a null: code 1."""
        try:
            return self.ext[name]
        except KeyError:
            raise Refusal(
                Response.SYSTEM_ERROR, f"java.lang.NullPointerException: the field {name} is missing"
            ) from None

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number among the fields. Refusal: code 1."""
        text = self.ext.get(name)
        if text is None and default is not None:
            return default
        try:
            return int(self.text(name))
        except ValueError:
            raise Refusal(
                Response.SYSTEM_ERROR, f"java.lang.NumberFormatException: the field {name} is no number"
            ) from None

    def flag(self, name: str, *, default: bool = False) -> bool:
        return self.ext[name].lower() == "true" if name in self.ext else default

    def json(self) -> dict[str, Any]:
        """The body, which must be an object. Refusal: code 1."""
        try:
            value = decode_json(self.frame.body)
        except DecodeError as error:
            raise Refusal(Response.SYSTEM_ERROR, f"com.alibaba.fastjson.JSONException: {error}") from None
        if not isinstance(value, dict):
            raise Refusal(Response.SYSTEM_ERROR, "java.lang.NullPointerException: the body is no object")
        return value

    def answer(
        self, code: int = 0, ext: dict[str, str] | None = None, body: bytes = b"", remark: str = ""
    ) -> None:
        """Answer, unless the request was one-way or its connection is gone."""
        if not self.awaited:
            return
        channel = self.channel
        answer = Frame(
            code, self.frame.opaque, _RESPONSE, ext or {}, body, remark, "JAVA", channel.server.version
        )
        channel.send(encode_binary(answer) if self.binary else encode_frame(answer))

    def confirm(self, ext: str) -> None:
        """Answer success, the fields being JSON text already: what every send gets, at half the cost."""
        if not self.awaited:
            return
        header = (
            f'{{"code":0,"extFields":{ext},"flag":1,"language":"JAVA","opaque":{self.frame.opaque},'
            f'"serializeTypeCurrentRPC":"JSON","version":{self.channel.server.version}}}'
        ).encode()
        self.channel.send(_PREFIX.pack(4 + len(header), len(header)) + header)

    def pass_on(self, answer: Frame) -> None:
        """Answer with what another client answered, its language and version included."""
        frame = Frame(
            answer.code, self.frame.opaque, _RESPONSE, answer.ext, answer.body, answer.remark,
            answer.language, answer.version,
        )  # fmt: skip
        if not self.muted:
            self.channel.send(encode_frame(frame))


def encode_binary(frame: Frame) -> bytes:
    """The frame with the binary form of the header (reference 1.3)."""
    remark = frame.remark.encode()
    block = b"".join(
        len(name).to_bytes(2, "big") + name + len(value).to_bytes(4, "big") + value
        for name, value in ((name.encode(), value.encode()) for name, value in frame.ext.items())
    )
    header = _HEAD.pack(frame.code, _JAVA, frame.version, frame.opaque, frame.flag, len(remark))
    header += remark + len(block).to_bytes(4, "big") + block
    return _PREFIX.pack(4 + len(header) + len(frame.body), len(header) | _BINARY_FORM) + header + frame.body
