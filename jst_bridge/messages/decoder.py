"""The decode step: a delivery becomes a typed message, or an UndecodableError says why not.

Envelope and content are each read strictly first, one msgspec call and a few comparisons; an ordinary message
takes some 5 µs in all. Whatever the strict reading refuses or doubts (another form of envelope, an id as text
or zero, a control character, a time out of range) is read again, tolerantly and several times slower, value by
value. Both readings give the same message where both can read it; the tests hold them to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from jst_bridge.errors import ConfigurationError, UndecodableError
from jst_bridge.messages.envelope import Envelope, OnsEnvelope, read_content, read_envelope
from jst_bridge.messages.families import Content, content_type, read_fields
from jst_bridge.messages.values import (
    BEIJING,
    CENT,
    EARLIEST,
    LATEST,
    NAME_LENGTH,
    READERS,
    YUAN_DIGITS,
    Instant,
    clean,
    epoch_ms,
    read_instant,
    read_yuan,
)
from jst_bridge.ports import Delivery, Message

__all__ = ["Decoder"]

ORIGIN_LENGTH = 96

TOLERANCE = 24 * 3600 * 1000
"""How far, in ms, the platform's clock may be ahead of the broker's."""

_read_ons = msgspec.json.Decoder(OnsEnvelope).decode
_app_key = re.compile(r"[!-~]{1,64}")


class _Route(NamedTuple):
    """How the content of one topic is read."""

    content: type[Content]
    read: Callable[[str], Content]
    limited: tuple[str, ...]
    """The fields msgspec cannot check to the end: amounts and times."""
    limited_values: Callable[[Content], tuple[Any, ...]]


class Decoder:
    """Decodes the deliveries of one source. It has no state but caches: safe to use from any thread."""

    def __init__(self, source: str, app_key: str) -> None:
        """`source` is the stable name of the source, `app_key` the app whose messages it carries.

        Raises ConfigurationError when the app key cannot be part of a message key.
        """
        if not _app_key.fullmatch(app_key):
            raise ConfigurationError(
                "the app key has to be 1 to 64 printable ASCII characters without blanks",
                remedy="copy the App Key (digits) from the console of the open platform",
            )
        self._source = source
        self._prefix = f"tb:{app_key}:"

    def decode(self, delivery: Delivery) -> Message:
        """The message in `delivery`. Raises UndecodableError; its reasons are those of `envelope.REASONS`."""
        if delivery.fault:
            raise UndecodableError("bad_body", f"the body could not be opened: {clean(delivery.fault)}")
        envelope: Envelope | OnsEnvelope
        try:
            envelope = _read_ons(delivery.body)
            if _is_doubtful(envelope, delivery.born_at):
                envelope = read_envelope(delivery.body, delivery.tag)
        except (ValueError, RecursionError):
            envelope = read_envelope(delivery.body, delivery.tag)
        content = _read_content(envelope.topic, envelope.content)
        if isinstance(envelope, OnsEnvelope):
            published_at, published_from = envelope.publish_time, "publish_time"
        else:
            published_at, published_from = _published(envelope, content, delivery.born_at)
        outgoing_id, user_id = envelope.outgoing_id, envelope.user_id
        tid, oid, refund_id, num_iid = content.ids()
        return Message(
            f"{self._prefix}{outgoing_id}" if outgoing_id else _key_without_id(delivery),
            self._source,
            envelope.topic,
            envelope.user_nick or _named_in(content),
            str(user_id) if user_id else "",
            str(tid) if tid else None,
            str(oid) if oid else None,
            str(refund_id) if refund_id else None,
            str(num_iid) if num_iid else None,
            published_at,
            published_from,
            content,
            delivery,
        )


@lru_cache(maxsize=4096)
def _route(topic: str) -> _Route:
    if len(topic) > NAME_LENGTH or not topic.isprintable():
        raise UndecodableError(
            "bad_topic", f"the topic ({len(topic)} characters) is too long or holds control characters"
        )
    kind = content_type(topic)
    limited = tuple(
        field.name
        for field in msgspec.structs.fields(kind)
        if READERS.get(field.type) in (read_yuan, read_instant)
    )
    # The getter takes one more field, because for a single one it would not answer with a tuple.
    return _Route(kind, msgspec.json.Decoder(kind).decode, limited, attrgetter(*limited, "raw", "raw"))


def _is_doubtful(envelope: OnsEnvelope, born_at: int) -> bool:
    """Whether msgspec let something pass that only the tolerant reading can mend."""
    return (
        envelope.publish_time > born_at + TOLERANCE
        or envelope.topic.isspace()
        or (envelope.user_nick is not None and "\0" in envelope.user_nick)
    )


def _read_content(topic: str, raw: str | dict[str, Any]) -> Content:
    route = _route(topic)
    if isinstance(raw, dict) or ("\\" in raw and "\\u0000" in raw):
        content = read_fields(route.content, read_content(raw))
    else:
        try:
            content = route.read(raw)
            _apply_limits(content, route)
        except (ValueError, ArithmeticError, RecursionError):
            content = read_fields(route.content, read_content(raw))
    content.raw = raw
    return content


def _apply_limits(content: Content, route: _Route) -> None:
    """What msgspec cannot check: the digits of an amount, the range and zone of a time."""
    for name, value in zip(route.limited, route.limited_values(content), strict=False):
        if value is None:
            continue
        if type(value) is Decimal:
            if not (value.same_quantum(CENT) and value.adjusted() < YUAN_DIGITS):
                setattr(content, name, read_yuan(value))
        elif type(value) is datetime and value.tzinfo is None and 1971 <= value.year < 2200:
            setattr(content, name, value.replace(tzinfo=BEIJING))
        else:
            setattr(content, name, read_instant(value))


def _named_in(content: Content) -> str:
    """The seller as the content names it, '' when it does not. `nick` comes last: it may be another user's."""
    return getattr(content, "seller_nick", None) or getattr(content, "nick", None) or ""


def _published(envelope: Envelope, content: Content, born_at: int) -> tuple[int, str]:
    """Epoch ms from EARLIEST to LATEST, and where they come from: the first candidate that can be true.

    A born time beyond those bounds says nothing. Where nothing else dates the message it counts as the oldest
    there can be: the same at every redelivery, and its values never outweigh those of a dated message.
    """
    believable = EARLIEST <= born_at <= LATEST
    latest = min(born_at + TOLERANCE, LATEST) if believable else LATEST
    candidates = [("publish_time", envelope.publish_time), ("pub_time", envelope.pub_time)]
    for name in ("modified", "gmt_modified", "time"):
        moment: Instant | None = getattr(content, name, None)
        candidates.append(("modified", None if moment is None else epoch_ms(moment)))
    for origin, at in candidates:
        if at is not None and EARLIEST <= at <= latest:
            return at, origin
    return born_at if believable else EARLIEST, "born"


def _key_without_id(delivery: Delivery) -> str:
    """The copy that was stored first, and the body: the same for every redelivery."""
    digest = blake2b(delivery.body, digest_size=8).hexdigest()
    origin = delivery.origin_id or delivery.transport_id
    if not origin.isascii() or not origin.isprintable() or len(origin) > ORIGIN_LENGTH:
        origin = blake2b(origin.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"rmq:{origin}:{digest}"
