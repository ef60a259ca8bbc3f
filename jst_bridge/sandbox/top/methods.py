"""taobao.jushita.jms.*: what each method takes, and what it does to the world (reference 7)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from .answers import Fields, Listed
from .parameters import written
from .refusals import Refusal, Refused, typical
from .world import (
    MOST_GROUPS,
    MOST_IN_GROUP,
    App,
    Opening,
    OpenSeller,
    Seller,
    SellerGroup,
    World,
)

__all__ = ["METHODS", "Argument", "Arguments", "Method"]

_MOST_NAMES: Final = 20
"""In one list."""
_PAGE: Final = 40
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True)
class Argument:
    """One parameter of a method. `longest` counts the characters of a text, or of each name in a list."""

    name: str
    kind: Literal["text", "names", "number"] = "text"
    required: bool = False
    longest: int = 256
    choices: frozenset[str] = frozenset()

    def check(self, value: str) -> None:
        """Raises Refused."""
        if not value.strip():
            if self.required:
                raise Refused(typical(40, detail=self.name, sub_code=f"isv.missing-parameter:{self.name}"))
            return
        names = value.split(",") if self.kind == "names" else [value]
        wrong = (
            len(names) > _MOST_NAMES
            or any(not name.strip() or len(name) > self.longest for name in names)
            or (self.kind == "number" and not _NUMBER.fullmatch(value))
            or (self.choices and value not in self.choices)
        )
        if wrong:
            raise Refused(typical(41, detail=self.name, sub_code=f"isv.invalid-parameter:{self.name}"))


class Arguments:
    """The arguments of one request, checked."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters

    def text(self, name: str) -> str:
        """'' when it was not given."""
        return self._parameters.get(name, "")

    def names(self, name: str) -> tuple[str, ...] | None:
        """None when it was not given."""
        text = self.text(name)
        return tuple(text.split(",")) if text.strip() else None

    def number(self, name: str, default: int) -> int:
        return int(self.text(name) or default)


Handler = Callable[[World, App, Seller | None, Arguments], Fields]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the platform. Its handler gives the fields of the answer, or raises Refused."""

    name: str
    handle: Handler
    takes: tuple[Argument, ...]
    needs_session: bool = False

    def read(self, parameters: Mapping[str, str]) -> Arguments:
        """Raises Refused."""
        for argument in self.takes:
            argument.check(parameters.get(argument.name, ""))
        return Arguments(parameters)

    @property
    def root(self) -> str:
        """The name of its answer's root."""
        return self.name.removeprefix("taobao.").replace(".", "_") + "_response"


def _add_user(world: World, app: App, seller: Seller | None, arguments: Arguments) -> Fields:
    if seller is None:
        raise Refused(typical(26))
    topics = arguments.names("topic_names")
    if not app.topics.issuperset(topics or ()):
        raise Refused(typical(50))
    now = world.now()
    opened = world.openings.get((app.key, seller.nick))
    world.openings[app.key, seller.nick] = Opening(
        seller, now if opened is None else opened.created, now, topics
    )
    return {"is_success": True}


def _delete_user(world: World, app: App, seller: Seller | None, arguments: Arguments) -> Fields:
    opened = world.openings.pop((app.key, arguments.text("user_nick")), None)
    return {"is_success": opened is not None or _confirmed(world)}


def _get_user(world: World, app: App, seller: Seller | None, arguments: Arguments) -> Fields:
    opened = _opened(world, app, arguments.text("user_nick"))
    if opened is None:
        return {"ons_user": {}} if world.unknown == "empty" else {}
    return {
        "ons_user": {
            "created": written(opened.created),
            "is_valid": opened.is_valid,
            "modified": written(opened.modified),
            "user_id": opened.user_id,
            "user_nick": opened.nick,
        }
    }


def _get_topics(world: World, app: App, seller: Seller | None, arguments: Arguments) -> Fields:
    opened = _opened(world, app, arguments.text("nick"))
    if opened is None and world.unknown == "quiet":
        return {}
    return {"results": Listed("string", () if opened is None else opened.topics)}


def _add_group(world: World, app: App, seller: Seller | None, arguments: Arguments) -> Fields:
    name = arguments.text("group_name")
    if name.startswith("default"):
        raise Refused(typical(50, sub_code="isv.invalid-parameter:group_name"))
    group = world.groups.get((app.key, name))
    nicks = set(arguments.names("user_nicks") or ())
    if group is None:
        if sum(key == app.key for key, _ in world.groups) >= MOST_GROUPS:
            raise Refused(typical(50, sub_code="isv.invalid-parameter:group_name", sub_msg="too many groups"))
        group = SellerGroup(name, world.now())
    if len(group.nicks | nicks) > MOST_IN_GROUP:
        raise Refused(typical(50, sub_code="isv.invalid-parameter:user_nicks", sub_msg="the group is full"))
    group.nicks |= nicks
    world.groups[app.key, name] = group
    return {"created": written(group.created), "group_name": name}


def _delete_group(world: World, app: App, seller: Seller | None, arguments: Arguments) -> Fields:
    name = arguments.text("group_name")
    group = world.groups.get((app.key, name))
    nicks = arguments.names("nicks")
    if group is None:
        return {"is_success": _confirmed(world)}
    if nicks is None:
        del world.groups[app.key, name]
    else:
        group.nicks.difference_update(nicks)
    return {"is_success": True}


def _get_groups(world: World, app: App, seller: Seller | None, arguments: Arguments) -> Fields:
    wanted = arguments.names("group_names")
    found = [name for key, name in world.groups if key == app.key and (wanted is None or name in wanted)]
    size = arguments.number("page_size", _PAGE)
    first = (arguments.number("page_no", 1) - 1) * size
    page: tuple[Fields, ...] = tuple({"name": name} for name in found[first : first + size])
    return {"groups": Listed("msg_group_d_o", page), "total_results": len(found)}


def _opened(world: World, app: App, nick: str) -> OpenSeller | None:
    opened = world.open_seller(app.key, nick)
    if opened is None and world.unknown == "refused":
        raise Refused(_no_such_user())
    return opened


def _confirmed(world: World) -> bool:
    """What is said of the deletion of something that is not there."""
    if world.unknown == "refused":
        raise Refused(_no_such_user())
    return world.unknown == "quiet"


def _no_such_user() -> Refusal:
    return typical(50, sub_code="isv.user-not-exist:invalid-nick")


_PLATFORM: Final = Argument("user_platform", choices=frozenset({"tbUIC", "icbu"}))
_GROUP_NAME: Final = Argument("group_name", required=True, longest=32)
_PREFIX: Final = "taobao.jushita.jms."
METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        Method(_PREFIX + "user.add", _add_user, (Argument("topic_names", "names"),), needs_session=True),
        Method(_PREFIX + "user.delete", _delete_user, (Argument("user_nick", required=True),)),
        Method(_PREFIX + "user.get", _get_user, (Argument("user_nick", required=True),)),
        Method(_PREFIX + "topics.get", _get_topics, (Argument("nick", required=True),)),
        Method(
            _PREFIX + "group.add",
            _add_group,
            (_GROUP_NAME, Argument("user_nicks", "names", required=True), _PLATFORM),
        ),
        Method(_PREFIX + "group.delete", _delete_group, (_GROUP_NAME, Argument("nicks", "names"), _PLATFORM)),
        Method(
            _PREFIX + "group.get",
            _get_groups,
            (
                Argument("group_names", "names"),
                Argument("page_no", "number"),
                Argument("page_size", "number"),
            ),
        ),
    )
}
