"""One seller: add, delete; many: compare what the store remembers with what the platform says."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from jst_bridge.errors import StoreError
from jst_bridge.store.sellers import Opened, SellerRow, Sellers
from jst_bridge.top import Confirmation, JmsClient, JmsSeller
from jst_bridge.top.errors import TopError, UnknownSeller

from .calls import MOST_FAULTS_IN_A_ROW, NotKnown, amended, ends_everything

__all__ = ["AGAIN", "Added", "Checked", "add", "check", "delete"]

AGAIN: Final = "then run the same command again: adding a seller twice does no harm"
_RECENT: Final = 900.0
"""Seconds within which the platform must have renewed a seller that was just added; clocks differ by up to 600."""


@dataclass(frozen=True, slots=True)
class Added:
    """A seller that the platform has opened."""

    confirmation: Confirmation
    seller: JmsSeller | None
    """What the platform says now; None when nobody knows the nick."""
    remembered: bool
    doubt: str = ""
    """Why the session may be another seller's; '' when nothing speaks for that."""


async def add(
    jms: JmsClient,
    sellers: Sellers | None,
    session: str,
    *,
    nick: str = "",
    topics: Sequence[str] | None = None,
) -> Added:
    """Open the session's seller; with `nick`, read back what the platform says and remember it in `sellers`.

    The store is opened first, so that its faults come before the platform did anything. Raises TopError,
    NotKnown when the platform has nobody called `nick`, StoreError.
    """
    if nick and sellers is not None:
        sellers.require_usable()
    confirmation = await jms.add_user(session, topics)
    if not nick:
        return Added(confirmation, None, remembered=False)
    try:
        seller = await jms.get_user(nick)
    except TopError as error:
        raise amended(
            error, f"the platform has added {nick}, but does not tell what it knows now", AGAIN
        ) from None
    if seller is None:
        raise unconfirmed(nick)
    if sellers is not None:
        try:
            sellers.remember([opened(seller, nick, topics)])
        except StoreError as error:
            raise amended(
                error, f"the platform has added {nick}, but the store does not remember it", AGAIN
            ) from None
    return Added(confirmation, seller, remembered=sellers is not None, doubt=_doubt(seller))


def opened(seller: JmsSeller, nick: str, topics: Sequence[str] | None) -> Opened:
    """What to remember of a seller that was just added."""
    return Opened(nick, seller.user_id, tuple(topics or ()), seller.is_valid)


def unconfirmed(nick: str) -> NotKnown:
    """The session was taken, but the platform knows nobody of that nick."""
    return NotKnown(
        f"the platform took the session, but knows no seller {nick}: the session is another seller's",
        remedy="check the nick, letter by letter, and which seller gave the session",
    )


def _doubt(seller: JmsSeller) -> str:
    renewed = seller.renewed_at
    if renewed is None or abs(time.time() - renewed.timestamp()) < _RECENT:
        return ""
    return (
        f"the platform last renewed {seller.nick} at {renewed:%Y-%m-%d %H:%M:%S} Beijing time, not just now:"
        " is the session another seller's?"
    )


async def delete(jms: JmsClient, sellers: Sellers | None, nick: str) -> bool:
    """Stop a seller's messages. Whether the store had remembered it as open.

    Raises NotKnown when the platform does not know it (then the store is told all the same), TopError, StoreError.
    """
    if sellers is not None:
        sellers.require_usable()
    unknown = False
    try:
        await jms.delete_user(nick)
    except UnknownSeller:
        unknown = True
    remembered = False
    if sellers is not None:
        try:
            remembered = sellers.mark_deleted(nick)
        except StoreError as error:
            raise amended(
                error,
                f"the platform has deleted {nick}, but the store still remembers it as open",
                "then run the same command again: deleting twice does no harm",
            ) from None
    if unknown:
        raise NotKnown(
            f"the platform does not know {nick}"
            + ("; the store does not expect it any more" if remembered else ""),
            remedy=""
            if remembered
            else "check the nick, letter by letter: `jst-bridge users list` has those remembered",
        )
    return remembered


# --- drift ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """One remembered seller compared with what the platform says."""

    row: SellerRow
    drift: tuple[str, ...] = ()
    """Sentences; none when both agree."""
    is_valid: bool | None = None
    error: TopError | None = None
    """Why it could not be compared."""


async def check(jms: JmsClient, rows: Iterable[SellerRow]) -> AsyncIterator[Checked]:
    """Ask the platform about each, one after the other.

    Raises TopError for what would meet every other as well, and when so many in a row could not be asked.
    """
    faults = 0
    for row in rows:
        try:
            checked = await _compare(jms, row)
            faults = 0
        except TopError as error:
            faults = faults + 1 if error.retriable else 0
            if ends_everything(error) or faults >= MOST_FAULTS_IN_A_ROW:
                raise
            checked = Checked(row, error=error)
        yield checked


async def _compare(jms: JmsClient, row: SellerRow) -> Checked:
    seller = await jms.get_user(row.nick)
    if row.deleted_at is not None:
        still = seller is not None and seller.is_valid is not False
        said = ("it was deleted here, but is open at the platform",) if still else ()
        return Checked(row, said, None if seller is None else seller.is_valid)
    if seller is None:
        return Checked(row, ("the platform does not know it: no messages flow",))
    drift = _differences(row, seller)
    if row.topics and seller.is_valid is not False:
        open_now = set((await jms.get_topics(row.nick)).topics)
        drift += _named("not open any more", set(row.topics) - open_now)
        drift += _named("open, but not asked for", open_now - set(row.topics))
    return Checked(row, drift, seller.is_valid)


def _differences(row: SellerRow, seller: JmsSeller) -> tuple[str, ...]:
    drift: tuple[str, ...] = ()
    if seller.is_valid is False:
        drift += ("its authorisation has ended: no messages flow",)
    if row.user_id and seller.user_id and row.user_id != seller.user_id:
        drift += (f"its user id is {seller.user_id}, not {row.user_id}",)
    return drift


def _named(what: str, topics: set[str]) -> tuple[str, ...]:
    return (f"{what}: {', '.join(sorted(topics))}",) if topics else ()
