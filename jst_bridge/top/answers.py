"""From the bytes of an answer to its fields, or to the platform's refusal (reference 5). Pure.

Tolerated: a byte order mark, NULs and white space around the document, invalid UTF-8, raw control characters in
strings, numbers of any length, lone surrogates (replaced), an error in XML although JSON was asked for.
Fractions come as the text that was sent: nothing is rounded.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from .errors import GatewayUnavailable, MalformedAnswer, Refusal, TopError

__all__ = ["Hide", "HttpAnswer", "clock_of", "elements", "read_answer", "texts"]

Hide = Callable[[str], str]
"""Masks secrets in foreign text."""

_PADDING: Final = " \t\r\n\0\ufeff"
_LONGEST_NUMBER: Final = 64
_LONGEST_TEXT: Final = 500
_EXCERPT: Final = 120
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_XML_ERROR: Final = re.compile(r"\s*(?:<\?xml[^>]*>)?\s*<error_response\b")
_XML_FIELD: Final = re.compile(r"<(code|msg|sub_code|sub_msg|request_id)\b[^>]*>([^<]*)<")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One HTTP response: status, Date header ('' without one), and the body, decompressed."""

    status: int
    body: bytes = field(repr=False)
    date: str = ""


def clock_of(answer: HttpAnswer) -> float | None:
    """The gateway's time in epoch seconds, by its Date header; None without a usable one."""
    try:
        moment = parsedate_to_datetime(answer.date)
        # An offset of -0000 gives a naive time in UTC.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def read_answer(
    answer: HttpAnswer, method: str, *, simplify: bool, hide: Hide
) -> dict[str, object] | Refusal:
    """The fields of a success (`request_id` among them), or what the platform refused with.

    `hide` masks secrets in everything that is quoted. Raises GatewayUnavailable and MalformedAnswer.
    """
    # Raised from here, where no local variable holds the answer: it may quote the request with its session.
    outcome = _read(answer, method, simplify, hide)
    if isinstance(outcome, TopError):
        raise outcome
    return outcome


def _read(
    answer: HttpAnswer, method: str, simplify: bool, hide: Hide
) -> dict[str, object] | Refusal | TopError:
    text = answer.body.decode("utf-8", "replace").strip(_PADDING)
    if _XML_ERROR.match(text):
        return _refusal(
            method, {name: html.unescape(value) for name, value in _XML_FIELD.findall(text)}, hide
        )
    document = _parse(text)
    if isinstance(document, dict) and isinstance(document.get("error_response"), dict):
        # The root is what counts, whatever the HTTP status (reference 5.2).
        return _refusal(method, document["error_response"], hide)
    if answer.status != 200:
        return _not_the_platform(answer.status, method, _excerpt(text, hide))
    if not isinstance(document, dict):
        return MalformedAnswer(
            f"{method}: the answer is no JSON object: {_excerpt(text, hide)}",
            remedy="check app.gateway, and that no proxy or login page answers in its place",
        )
    root = method.removeprefix("taobao.").replace(".", "_") + "_response"
    if root in document:
        document = {} if document[root] is None else document[root]
    elif not simplify or "error_response" in document or any(name.endswith("_response") for name in document):
        document = None
    if not isinstance(document, dict):
        return MalformedAnswer(
            f"{method}: the answer has no usable {root}: {_excerpt(text, hide)}",
            remedy="check app.gateway; if it is right, ask the platform's support",
        )
    return document


def elements(value: object) -> list[object]:
    """The elements of a list of objects: wrapped in one element name, plain, a single one, or absent."""
    if isinstance(value, Mapping) and len(value) == 1:
        (inner,) = value.values()
        if inner is None or isinstance(inner, list | Mapping):
            value = inner
    if value is None or value in ("", {}):
        return []
    return list(value) if isinstance(value, list) else [value]


def texts(value: object) -> tuple[str, ...]:
    """The elements of a list of strings, in the same four shapes. Numbers become text, null elements go."""
    if isinstance(value, Mapping):
        value = next(iter(value.values()), None)
    listed = value if isinstance(value, list) else [value]
    return tuple(str(each) for each in listed if isinstance(each, str | int) and str(each).strip())


# --- JSON -------------------------------------------------------------------------------------------


def _integer(digits: str) -> int | str:
    # Python itself refuses more than 4,300 digits.
    return int(digits) if len(digits) <= _LONGEST_NUMBER else digits


_decoder: Final = json.JSONDecoder(parse_int=_integer, parse_float=str, parse_constant=str, strict=False)


def _parse(text: str) -> object:
    """The value of a document, None when it is no JSON."""
    try:
        document: object = _decoder.decode(text)
        return _without_surrogates(document) if _SURROGATE_ESCAPE.search(text) else document
    except (ValueError, RecursionError):
        return None


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(each) for each in value]
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", name): _without_surrogates(each) for name, each in value.items()}
    return value


# --- refusals and failures --------------------------------------------------------------------------


def _refusal(method: str, fields: Mapping[str, object], hide: Hide) -> Refusal:
    def words(name: str) -> str:
        value = fields.get(name)
        # sub_msg may hold HTML entities (reference 5.1).
        shown = html.unescape(str(value)) if isinstance(value, str | int) else ""
        return " ".join(hide(shown).split())[:_LONGEST_TEXT]

    code = words("code")
    return Refusal(
        method,
        int(code) if re.fullmatch(r"-?[0-9]{1,9}", code) else 0,
        words("msg"),
        words("sub_code"),
        words("sub_msg"),
        words("request_id"),
    )


def _not_the_platform(status: int, method: str, excerpt: str) -> TopError:
    """The platform itself answers 200 even for errors (reference 2.2)."""
    message = f"{method}: the gateway answered HTTP {status}: {excerpt}"
    if status >= 500 or status in (408, 429):
        return GatewayUnavailable(
            message, status=status, remedy="try again later; the platform's front end is in trouble"
        )
    if 300 <= status < 400:
        remedy = (
            "check app.gateway: it must answer itself, not redirect (http instead of https, a login page)"
        )
    elif status == 403:
        remedy = "check that this machine may reach the gateway (proxy, white list of addresses)"
    else:
        remedy = "check app.gateway: its path is /router/rest"
    return MalformedAnswer(message, retriable=False, remedy=remedy)


def _excerpt(text: str, hide: Hide) -> str:
    """The beginning of an answer as one short line. Masked first: a cut could leave half a secret."""
    line = " ".join(hide(text).split())
    if not line:
        return "nothing"
    return line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"
