"""What real servers said, and our own valid answers: where mutations begin."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path

import lz4.frame
import zstandard

from jst_bridge.rocketmq.codes import SysFlag
from jst_bridge.rocketmq.compression import compress
from jst_bridge.rocketmq.frame import Frame, decode_frame
from jst_bridge.rocketmq.message import MessageExt, encode_message, pack_host
from jst_bridge.rocketmq.properties import encode_properties
from tests.samples import samples
from tests.scripted import as_binary

__all__ = ["BOMBS", "KINDS", "bodies", "captures", "frames", "stored"]

KINDS = (SysFlag.COMPRESSION_ZLIB, SysFlag.COMPRESSION_LZ4, SysFlag.COMPRESSION_ZSTD)


def _bombs() -> dict[SysFlag, bytes]:
    zeros = bytes(64 << 20)
    return {
        SysFlag.COMPRESSION_ZLIB: zlib.compress(zeros, 9),
        SysFlag.COMPRESSION_LZ4: lz4.frame.compress(zeros),
        SysFlag.COMPRESSION_ZSTD: zstandard.ZstdCompressor(write_content_size=False).compress(zeros),
    }


BOMBS = _bombs()
"""64 MiB of zeros, small: 65 KiB, 257 KiB and 6 KiB."""


@cache
def captures() -> dict[str, bytes]:
    """Whole frames by name: 4.9.7 and 5.3.3, both header forms, requests and answers."""
    file = Path(__file__).parents[1] / "data" / "rocketmq-wire-captures.json"
    return {entry["name"]: bytes.fromhex(entry["hex"]) for entry in json.loads(file.read_text())["frames"]}


@cache
def frames() -> tuple[Frame, ...]:
    return tuple(decode_frame(data) for data in captures().values())


def bodies(*words: str) -> tuple[bytes, ...]:
    """Bodies of the captures whose name holds one of these words."""
    found = [
        decode_frame(data).body for name, data in captures().items() if any(word in name for word in words)
    ]
    return tuple(body for body in found if body)


@cache
def streams() -> tuple[bytes, ...]:
    """Frames as they come over a connection: alone, in the binary form, several behind each other."""
    whole = tuple(captures().values())
    return (*whole, *(as_binary(frame) for frame in frames()), b"".join(whole[:5]), b"".join(whole[20:30]))


@cache
def stored() -> tuple[bytes, ...]:
    """Bodies of pulls: those of the captures, and samples of our own in every compression, with wide hosts."""
    made = []
    for number, sample in enumerate(samples()[:12]):
        kind = (SysFlag(0), *KINDS)[number % 4]
        body, flags = compress(sample.body, kind) if kind else (sample.body, 0)
        host = pack_host("::1" if number % 3 else "127.0.0.1", 10911)
        made.append(_message(sample.tag, sample.keys, body, int(flags), host))
    made += [
        _message("A", "", bomb, int(SysFlag.COMPRESSED | kind), pack_host("::1", 1))
        for kind, bomb in BOMBS.items()
    ]
    return (*bodies("pull_"), b"".join(made[:6]), *made)


def _message(tag: str, keys: str, body: bytes, flags: int, host: bytes) -> bytes:
    properties = encode_properties({"KEYS": keys, "UNIQ_KEY": "7F000001", "TAGS": tag, "RETRY_TOPIC": "T"})
    return encode_message(
        MessageExt("%RETRY%G", body, properties, 3, 17, 1000, 1_668_100_000_000, 1, 0, flags, host, host)
    )
