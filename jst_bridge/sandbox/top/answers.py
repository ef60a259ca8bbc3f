"""How an answer is written: JSON or XML, with its wrappers or simplified (reference 5), and oddly if so wanted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from xml.sax.saxutils import escape

from .refusals import Refusal

__all__ = ["Fields", "Listed", "Manner", "Oddity", "write_fields", "write_refusal"]

Oddity = Literal[
    "numbers as text",
    "text as numbers",
    "single for list",
    "null for empty",
    "absent for empty",
    "no request id",
    "raw control characters",
    "html entities",
    "byte order mark",
]
"""What real answers were seen to do now and then; with XML only the last four have a meaning."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A list, and the element name that wraps it unless the answer is simplified."""

    element: str
    items: Sequence[Value]


Value = str | int | bool | Listed | Mapping[str, "Value"]
Fields = Mapping[str, Value]
_Tree = str | int | bool | None | list["_Tree"] | dict[str, "_Tree"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How one answer is to be written."""

    as_json: bool
    simple: bool
    request_id: str
    oddities: frozenset[Oddity] = frozenset()


_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")
_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_REMARK: Final = "tab\tand\nnew line"
_ENTITIES: Final = "&apos;nick&apos; &lt;unknown&gt; &amp; so on"


def write_fields(root: str, fields: Fields, manner: Manner) -> str:
    """The document of a success."""
    whole: dict[str, Value] = {**fields}
    _decorate(whole, manner)
    if not manner.as_json:
        return _xml(root, whole, manner)
    tree = _tree(whole, manner)
    return _json(tree if manner.simple else {root: tree}, manner)


def write_refusal(refusal: Refusal, manner: Manner) -> str:
    """The document of an error, which `simplify` does not change."""
    whole: dict[str, Value] = {"code": refusal.code, "msg": refusal.msg}
    if refusal.sub_code:
        whole["sub_code"] = refusal.sub_code
    if refusal.sub_msg:
        whole["sub_msg"] = refusal.sub_msg
    if "html entities" in manner.oddities:
        whole["sub_msg"] = refusal.sub_msg + _ENTITIES
    _decorate(whole, manner)
    if not manner.as_json:
        return _xml("error_response", whole, manner)
    return _json({"error_response": _tree(whole, manner)}, manner)


def _decorate(whole: dict[str, Value], manner: Manner) -> None:
    if "no request id" not in manner.oddities:
        whole["request_id"] = manner.request_id
    if "raw control characters" in manner.oddities:
        whole["remark"] = _REMARK


# --- JSON --------------------------------------------------------------------------------------------


def _json(tree: _Tree, manner: Manner) -> str:
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    if "raw control characters" in manner.oddities:
        text = text.replace(json.dumps(_REMARK)[1:-1], _REMARK)
    return "\ufeff" + text if "byte order mark" in manner.oddities else text


def _tree(value: Value, manner: Manner) -> _Tree:
    odd = manner.oddities
    match value:
        case bool():
            return str(value).lower() if "numbers as text" in odd else value
        case int():
            return str(value) if "numbers as text" in odd else value
        case str():
            return int(value) if "text as numbers" in odd and _NUMBER.fullmatch(value) else value
        case Listed():
            return _list(value, manner)
        case _:
            emptied = {"absent for empty", "null for empty"} & odd
            tree = {name: _tree(each, manner) for name, each in value.items()}
            if "absent for empty" in emptied:
                return {name: each for name, each in tree.items() if each not in ({}, [], None)}
            return {name: None if emptied and each in ({}, []) else each for name, each in tree.items()}


def _list(listed: Listed, manner: Manner) -> _Tree:
    items: _Tree = [_tree(each, manner) for each in listed.items]
    if "single for list" in manner.oddities and len(listed.items) == 1:
        items = _tree(listed.items[0], manner)
    if manner.simple:
        return items
    # An empty list was seen as an empty object in real answers (reference 5.1).
    return {listed.element: items} if listed.items else {}


# --- XML ---------------------------------------------------------------------------------------------


def _xml(root: str, fields: Fields, manner: Manner) -> str:
    mark = "\ufeff" if "byte order mark" in manner.oddities else ""
    # Real answers end with a comment that names the host.
    return f'{mark}<?xml version="1.0" encoding="utf-8" ?>{_element(root, fields)}<!--sandbox-->'


def _element(name: str, value: Value) -> str:
    match value:
        case bool():
            return f"<{name}>{str(value).lower()}</{name}>"
        case int():
            return f"<{name}>{value}</{name}>"
        case str():
            return f"<{name}>{escape(_NOT_XML.sub(' ', value))}</{name}>"
        case Listed():
            inner = "".join(_element(value.element, each) for each in value.items)
            return f'<{name} list="true">{inner}</{name}>'
        case _:
            inner = "".join(_element(each, part) for each, part in value.items())
            return f"<{name}>{inner}</{name}>"
