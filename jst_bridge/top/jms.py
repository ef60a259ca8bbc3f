"""taobao.jushita.jms.*: which sellers' messages flow into the app's system topic (reference 7).

Fields and limits are those of the vendor's API pages (open.taobao.com/api.htm?docId=25344 for user.add, 25345,
25343, 26278, 25634); group.add and group.delete are known from old SDKs only. No real answer of these methods is
public, so everything that may be missing or oddly typed is read as leniently as its meaning allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from .answers import elements, texts
from .client import TopClient
from .errors import BusinessRefused, InvalidArgument, MalformedAnswer, Refusal, UnknownSeller
from .parameters import BEIJING, Call, Secret
from .refusals import Circumstances, refused

__all__ = ["Confirmation", "JmsClient", "JmsSeller", "OpenTopics", "SellerGroup"]

Platform = Literal["tbUIC", "icbu"]

_PREFIX: Final = "taobao.jushita.jms."
_AT_ONCE: Final = 20
"""Most names in one list (reference 7)."""
_LONGEST_GROUP_NAME: Final = 32
_PAGE: Final = 40
_MOST_PAGES: Final = 500
_DONE: Final = frozenset({"", "0", "200", "success"})
"""What `result_code` may say when topics.get worked: the true value is not documented (reference 14.1)."""
_REFUSED_NICK: Final = re.compile(r"isv\.(?:invalid-parameter|.*not-(?:exist|found))")
"""user.get has one argument: when that is refused, the platform does not know the seller (reference 7)."""


# --- results ----------------------------------------------------------------------------------------


def _instant(value: object) -> datetime | None:
    """`yyyy-MM-dd HH:mm:ss` in Beijing time; None when it is absent or written otherwise."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    try:
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S").replace(tzinfo=BEIJING)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _flag(value: object) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(_text(value).strip().lower())


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""


def _digits(value: object) -> str:
    text = _text(value).strip()
    return text.lstrip("0") if re.fullmatch(r"[0-9]{1,32}", text) else ""


Instant = Annotated[datetime | None, BeforeValidator(_instant)]
Flag = Annotated[bool | None, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)

    request_id: Text = ""
    """The platform's id of the call, for its support; '' when it gave none."""


class Confirmation(_Result):
    """The platform said `is_success`."""


class JmsSeller(_Result):
    """What the platform knows of a seller (`ons_user`). None and '' stand for what it did not say."""

    nick: Text = Field(validation_alias=AliasChoices("nick", "user_nick"))
    user_id: Annotated[str, BeforeValidator(_digits)] = ""
    """Decimal text."""
    is_valid: Flag = None
    """Whether the authorisation still holds; False: its messages have stopped."""
    opened_at: Instant = Field(default=None, validation_alias=AliasChoices("opened_at", "created"))
    """When the seller was first added."""
    renewed_at: Instant = Field(default=None, validation_alias=AliasChoices("renewed_at", "modified"))
    """When the seller was last added."""


class OpenTopics(_Result):
    """The topics (message types) that are open for one seller."""

    nick: str
    topics: tuple[str, ...]


class SellerGroup(_Result):
    """TOP's grouping of sellers. Who is in it is not told."""

    name: Text = Field(validation_alias=AliasChoices("name", "group_name"))
    description: Text = ""
    created_at: Instant = Field(
        default=None, validation_alias=AliasChoices("created_at", "created", "gmt_create")
    )
    modified_at: Instant = Field(default=None, validation_alias=AliasChoices("modified_at", "gmt_modified"))


# --- the client -------------------------------------------------------------------------------------


class JmsClient:
    """The jms methods. All are idempotent, so a lost answer is asked for again. Each raises TopError."""

    def __init__(self, top: TopClient) -> None:
        self._top = top

    def __repr__(self) -> str:
        return f"<JmsClient of {self._top!r}>"

    async def add_user(self, session: str, topics: Sequence[str] | None = None) -> Confirmation:
        """Let the messages of the session's seller flow; again: replace its topics and renew it.

        `topics` are at most 20 message types; None inherits all that the app subscribes in its console.
        """
        session = Secret(session)
        call = Call.of(_PREFIX + "user.add", {"topic_names": _topic_names(topics)}, session)
        return await self._top.perform(call, lambda fields: _confirmation(call.method, fields))

    async def delete_user(self, nick: str) -> Confirmation:
        """Stop a seller's messages. May raise UnknownSeller; some platforms confirm it instead (reference 14.1)."""
        call = Call.of(_PREFIX + "user.delete", {"user_nick": _named(nick, "nick")})
        return await self._top.perform(call, lambda fields: _confirmation(call.method, fields))

    async def get_user(self, nick: str) -> JmsSeller | None:
        """What the platform knows of a seller; None when it knows nothing."""
        call = Call.of(_PREFIX + "user.get", {"user_nick": _named(nick, "nick")})
        try:
            return await self._top.perform(call, lambda fields: _seller(nick, fields))
        except UnknownSeller:
            return None
        except BusinessRefused as error:
            if _REFUSED_NICK.match(error.sub_code):
                return None
            raise

    async def get_topics(self, nick: str) -> OpenTopics:
        """The topics open for a seller."""
        call = Call.of(_PREFIX + "topics.get", {"nick": _named(nick, "nick")})
        return await self._top.perform(call, lambda fields: _open_topics(call.method, nick, fields))

    async def add_group(
        self, name: str, nicks: Sequence[str], *, platform: Platform | None = None
    ) -> SellerGroup:
        """Put at most 20 sellers into a seller group, which comes to be with its first."""
        call = Call.of(
            _PREFIX + "group.add",
            {"group_name": _group_name(name), "user_nicks": _some(nicks, "nicks"), "user_platform": platform},
        )
        return await self._top.perform(call, lambda fields: _added_group(call.method, name, fields))

    async def delete_group(
        self, name: str, nicks: Sequence[str] | None = None, *, platform: Platform | None = None
    ) -> Confirmation:
        """Take at most 20 sellers out of a seller group; without `nicks` delete the whole group."""
        call = Call.of(
            _PREFIX + "group.delete",
            {
                "group_name": _group_name(name),
                "nicks": None if nicks is None else _some(nicks, "nicks"),
                "user_platform": platform,
            },
        )
        return await self._top.perform(call, lambda fields: _confirmation(call.method, fields))

    async def get_groups(self, names: Sequence[str] | None = None) -> list[SellerGroup]:
        """The app's seller groups, or those of `names`; every page of them, each group once."""
        found: dict[str, SellerGroup] = {}
        if names is None:
            await self._pages(None, found)
        else:
            asked = _plain(names, "names")
            for first in range(0, len(asked), _AT_ONCE):
                await self._pages(asked[first : first + _AT_ONCE], found)
        return list(found.values())

    async def _pages(self, names: list[str] | None, found: dict[str, SellerGroup]) -> None:
        seen = 0
        for page_no in range(1, _MOST_PAGES + 1):
            call = Call.of(
                _PREFIX + "group.get", {"group_names": names, "page_no": page_no, "page_size": _PAGE}
            )
            groups, total = await self._top.perform(call, lambda fields: _groups(call.method, fields))  # noqa: B023
            fresh = {group.name: group for group in groups if group.name not in found}
            found |= fresh
            seen += len(groups)
            # A platform that ignores page_no would send the same page for ever.
            if not fresh or (seen >= total if total is not None else len(groups) < _PAGE):
                return


# --- arguments --------------------------------------------------------------------------------------


def _named(text: str, what: str) -> str:
    if not text.strip():
        raise InvalidArgument(f"the {what} is empty")
    return text


def _plain(names: Sequence[str], what: str) -> list[str]:
    if isinstance(names, str):
        raise InvalidArgument(f"{what} must be a list, not one text")
    return [_named(name, "name in " + what) for name in names]


def _some(names: Sequence[str], what: str) -> list[str]:
    plain = _plain(names, what)
    if not 0 < len(plain) <= _AT_ONCE:
        raise InvalidArgument(f"{what} must hold 1 to {_AT_ONCE} names, and holds {len(plain)}")
    return plain


def _topic_names(topics: Sequence[str] | None) -> list[str] | None:
    # An empty list would be left out, and that means all topics of the app.
    return None if topics is None else _some(topics, "topics")


def _group_name(name: str) -> str:
    if len(_named(name, "group name")) > _LONGEST_GROUP_NAME:
        raise InvalidArgument(f"the group name is longer than {_LONGEST_GROUP_NAME} characters")
    if name.startswith("default"):
        raise InvalidArgument('the group name begins with "default", which the platform reserves')
    return name


# --- answers ----------------------------------------------------------------------------------------


def _confirmation(method: str, fields: Mapping[str, object]) -> Confirmation:
    """Neither an error nor a flag is no success: both are required (reference 7)."""
    done = _flag(fields.get("is_success"))
    if done is None:
        raise MalformedAnswer(
            f"{method}: the answer does not say is_success", remedy="ask what the platform knows now"
        )
    _not_refused(method, fields)
    return Confirmation.model_validate(fields)


def _not_refused(method: str, fields: Mapping[str, object]) -> None:
    if _flag(fields.get("is_success")) is False:
        raise BusinessRefused(
            Refusal(method, 0, "is_success is false", request_id=_text(fields.get("request_id"))),
            remedy="check that message sync is enabled for the app and that its topics are subscribed",
        )


def _seller(nick: str, fields: Mapping[str, object]) -> JmsSeller | None:
    listed = elements(fields.get("ons_user"))
    known: Any = listed[0] if listed else None
    if not isinstance(known, Mapping) or not any(value not in (None, "") for value in known.values()):
        return None
    return JmsSeller.model_validate(
        {**known, "nick": _text(known.get("user_nick")) or nick, "request_id": fields.get("request_id")}
    )


def _open_topics(method: str, nick: str, fields: Mapping[str, object]) -> OpenTopics:
    """topics.get reports failures within a success answer: `result_code` is read like a sub_code."""
    code = _text(fields.get("result_code")).strip()
    if code.lower() not in _DONE:
        refusal = Refusal(
            method, 15, "result_code", code[:200], _text(fields.get("result_message"))[:500],
            _text(fields.get("request_id")),
        )  # fmt: skip
        raise refused(refusal, Circumstances())
    return OpenTopics(
        nick=nick, topics=texts(fields.get("results")), request_id=_text(fields.get("request_id"))
    )


def _added_group(method: str, name: str, fields: Mapping[str, object]) -> SellerGroup:
    _not_refused(method, fields)
    return SellerGroup.model_validate({**fields, "name": _text(fields.get("group_name")) or name})


def _groups(method: str, fields: Mapping[str, object]) -> tuple[list[SellerGroup], int | None]:
    """One page, and how many groups there are in all where the platform says so."""
    listed = [
        each if isinstance(each, Mapping) else {"name": each} for each in elements(fields.get("groups"))
    ]
    named = [each for each in listed if _text(each.get("name"))]
    if len(named) < len(listed):
        raise MalformedAnswer(f"{method}: a group has no name", remedy="ask the platform's support")
    total = _digits(fields.get("total_results"))
    return [SellerGroup.model_validate(each) for each in named], int(total) if total else None
