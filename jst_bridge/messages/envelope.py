"""The envelope of a message: who sent what to whom, and when.

The ONS form is read directly by msgspec (`OnsEnvelope`). Everything else goes through `read_envelope`, which
knows the cousins of that form and says clearly what a body is that is none of them:

    form            id            user                   time                 where it comes from
    ons             outgoing_id   user_id, user_nick     publish_time (ms)    system topic of Jushita
    tmc_http        id            user_id, user_nick     pub_time (text)      taobao.tmc.messages.consume
    tmc_ws          id            userid, nick           time (ms)            TMC long connection
    tmc_sdk         Id            UserId, UserNick       PubTime (text)       beans of the official SDKs
    comet_notify    -             user_id, nick          -                    {"notify_trade": {}}, until 2014
    bare content    -             -                      -                    content whose topic is the tag

The first four are one form to `read_envelope`, because their names differ by spelling only, once case and
underscores are left out.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from jst_bridge.errors import UndecodableError
from jst_bridge.messages.catalogue import lookup
from jst_bridge.messages.json_text import parse
from jst_bridge.messages.values import (
    EARLIEST,
    LATEST,
    NAME_LENGTH,
    Id,
    Name,
    epoch_ms,
    read_id,
    read_instant,
    read_name,
)

__all__ = ["REASONS", "Envelope", "OnsEnvelope", "read_content", "read_envelope"]

REASONS = {
    "bad_body": "the source could not open the body (unknown compression, corrupt data)",
    "empty_body": "the body is empty",
    "not_text": "the body is neither JSON nor UTF-8 text",
    "not_json": "the body is text, but no JSON",
    "too_deep": "the JSON is nested too deeply to be read",
    "not_an_object": "the body is JSON, but no object",
    "not_an_envelope": "the object is no known form of a message",
    "rds_row": "the body is a row that RDS push (数据推送) writes: an API answer, not a message",
    "error_response": "the body is an error answer of the open platform, not a message",
    "bad_content": "the envelope is fine, but its content is no JSON object",
    "no_topic": "neither the body nor the broker's tag names a topic",
    "bad_topic": "the topic is longer than 128 characters or holds control characters",
}
"""Every reason an UndecodableError of this package can have, in words."""

_MARKS = frozenset(
    {
        "outgoingid",
        "publishtime",
        "publisherappkey",
        "pubtime",
        "pubappkey",
        "publisher",
        "usernick",
        "dataid",
    }
)
_FORMAL = _MARKS | {"topic", "content"}


class Envelope(msgspec.Struct, gc=False):
    """An envelope in normal form."""

    topic: str
    content: str | dict[str, Any]
    """As the body held it: JSON text or an object. A notification's is without its `topic` and `status`."""
    outgoing_id: int | None = None
    """The platform's message id."""
    publish_time: int | None = None
    """Epoch ms."""
    user_id: int | None = None
    user_nick: str | None = None
    pub_time: int | None = None
    """Epoch ms, from the text form of the time."""


class OnsEnvelope(msgspec.Struct, gc=False):
    """The ONS form as it normally is; anything unusual about it fails to decode."""

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LENGTH)]
    content: str
    outgoing_id: Id
    publish_time: Annotated[int, msgspec.Meta(ge=EARLIEST, le=LATEST)]
    user_id: Id | None = None
    user_nick: Name | None = None


def read_envelope(body: bytes, tag: str) -> Envelope:
    """The envelope of any known form. `tag` is the broker's, used when the body names no topic.

    Raises UndecodableError.
    """
    document = _unpacked(_document(body))
    notify = next((name for name, value in document.items() if _is_notify(name, value)), None)
    if notify is not None:
        return _notified(notify.removeprefix("notify_"), document[notify])
    # Sorted, so that of two spellings of one name the lower-case one, which is the ONS form's, wins.
    folded = {_fold(name): document[name] for name in sorted(document)}
    evidence = ("topic" in folded) + ("content" in folded) + (not _MARKS.isdisjoint(folded))
    if evidence >= 2:
        return _enveloped(folded, tag)
    _refuse_answers(document)
    info = lookup(tag)
    known = {_fold(field.name) for field in info.fields} if info else set()
    if info is not None and not (_FORMAL & folded.keys()) - known:
        return Envelope(tag, document)
    raise UndecodableError(
        "not_an_envelope",
        f"the body is a JSON object of {len(document)} fields that is neither an envelope "
        "nor the content of a topic that the broker's tag names",
    )


def _fold(name: str) -> str:
    return name.replace("_", "").lower()


def _document(body: bytes) -> dict[str, Any]:
    if not body.strip(b" \t\r\n\0"):
        raise UndecodableError("empty_body", f"the body is empty ({len(body)} bytes)")
    try:
        document = parse(body)
    except RecursionError:
        raise UndecodableError("too_deep", f"the body ({len(body)} bytes) is nested too deeply") from None
    except ValueError as error:
        reason = "not_json" if _is_text(body) else "not_text"
        raise UndecodableError(reason, f"the body ({len(body)} bytes) is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise UndecodableError("not_an_object", f"the body is a JSON {_kind(document)}, not an object")
    return document


def _unpacked(document: dict[str, Any]) -> dict[str, Any]:
    """What the old long connection wrapped as {"packet": {"code": 202, "msg": ...}}."""
    packet = document.get("packet")
    if not isinstance(packet, dict) or "msg" not in packet:
        return document
    return read_content(packet["msg"])


def _is_notify(name: str, value: object) -> bool:
    return name.startswith("notify_") and isinstance(value, dict)


def _notified(family: str, fields: dict[str, Any]) -> Envelope:
    """The old notification: its `topic` and `status` are the two halves of today's topic."""
    status = fields.get("status")
    if not isinstance(status, str) or not status:
        raise UndecodableError("no_topic", "the notification has no status, so its topic is unknown")
    named = fields.get("topic")
    topic = f"taobao_{named if isinstance(named, str) and named else family}_{status}"
    content = {name: value for name, value in fields.items() if name not in ("topic", "status")}
    # `nick` is whoever was notified, possibly the buyer: the seller is left to the content.
    return Envelope(topic, content, user_id=read_id(fields.get("user_id")))


def _enveloped(folded: dict[str, Any], tag: str) -> Envelope:
    def first(*names: str) -> object:
        return next((folded[name] for name in names if folded.get(name) not in (None, "")), None)

    named = first("topic")
    topic = named if type(named) is str and named.strip() else tag
    if not topic.strip():
        raise UndecodableError("no_topic", "neither the body nor the broker's tag names a topic")
    content = folded.get("content")
    if not (isinstance(content, dict) or type(content) is str):  # exactly: a NoNumber is one too
        content = read_content(content)
    nick = first("usernick", "nick")
    return Envelope(
        topic,
        content,
        outgoing_id=read_id(first("outgoingid", "id")),
        publish_time=_milliseconds(first("publishtime", "time")),
        user_id=read_id(first("userid")),
        user_nick=read_name(nick),
        pub_time=_milliseconds(first("pubtime")),
    )


def _milliseconds(value: object) -> int | None:
    moment = read_instant(value)
    return None if moment is None else epoch_ms(moment)


def read_content(content: object) -> dict[str, Any]:
    """The fields of a content in any form. Nothing at all is an empty object. Raises UndecodableError."""
    if content is None:
        return {}
    if isinstance(content, str):
        try:
            content = parse(content) if content.strip(" \t\r\n\0") else {}
        except RecursionError:
            raise UndecodableError("too_deep", "the content is nested too deeply") from None
        except ValueError as error:
            raise UndecodableError("bad_content", f"the content is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise UndecodableError("bad_content", f"the content is a JSON {_kind(content)}, not an object")
    return content


def _refuse_answers(document: dict[str, Any]) -> None:
    if "error_response" in document:
        raise UndecodableError("error_response", "the body is an error answer of the open platform")
    if any(name.endswith("_get_response") or name.startswith("jdp_") for name in document):
        raise UndecodableError("rds_row", "the body is an API answer as RDS push stores it, not a message")


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, list):
        return "array"
    return "string" if type(value) is str else "number"
