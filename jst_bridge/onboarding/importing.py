"""Add many sellers, one after the other, so that a kill can cost at most one addition done twice.

A row goes through three steps: the platform adds it (then it is in the journal, durably), the platform is asked what it
knows now, and the store remembers it. Groups come last, some sellers per call. Begun again, rows go on where they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from jst_bridge.errors import StoreError
from jst_bridge.store.sellers import Opened, Sellers
from jst_bridge.top import JmsClient, JmsSeller
from jst_bridge.top.errors import TopError

from .calls import MOST_FAULTS_IN_A_ROW, amended, ends_everything
from .journal import Journal, Stage
from .opening import AGAIN, opened, unconfirmed
from .roster import Row

__all__ = ["Import", "Outcome", "State"]

_BATCH: Final = 100
"""Sellers remembered in one transaction,"""
_BATCH_SECONDS: Final = 1.0
"""or as many as come in this time."""
_IN_ONE_CALL: Final = 20
"""Sellers put into a group at once (the platform's limit)."""


class State(StrEnum):
    """What became of a row."""

    WAITING = "not tried"
    ADDED = "added"
    BEFORE = "added before"
    BAD = "bad row"
    FAILED = "failed"


@dataclass(slots=True)
class Outcome:
    """One row, and what became of it."""

    row: Row
    state: State = State.WAITING
    user_id: str = ""
    reason: str = ""
    remedy: str = ""

    def fail(self, reason: str, remedy: str = "") -> None:
        self.state, self.reason, self.remedy = State.FAILED, reason, remedy

    @property
    def is_open(self) -> bool:
        return self.state in (State.ADDED, State.BEFORE)


class Import:
    """One import. `outcomes` are true at any time, also after an error. `report` hears of each row that ends."""

    def __init__(
        self,
        rows: Sequence[Row],
        journal: Journal,
        known: dict[str, str],
        report: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """`known`: nick -> user id of the sellers that the store remembers as open."""
        self._journal = journal
        self._report = report
        self._known = known
        self._pending: list[tuple[Outcome, Opened]] = []
        self._flushed = time.monotonic()
        self._faults = 0
        self.outcomes = [self._begun(row) for row in rows]

    def _begun(self, row: Row) -> Outcome:
        if row.fault:
            return Outcome(row, State.BAD, reason=row.fault)
        # Who is not remembered any more was deleted, or forgotten, since.
        if self._stage(row) >= Stage.DONE and row.nick in self._known:
            return Outcome(row, State.BEFORE, self._known[row.nick])
        return Outcome(row)

    def _stage(self, row: Row) -> int:
        return self._journal.stage(self._journal.mark(row)) or 0

    async def run(self, jms: JmsClient, sellers: Sellers) -> None:
        """Do it. Raises TopError for what would meet every other row as well, StoreError, JstBridgeError."""
        for outcome in self.outcomes:
            if outcome.state is not State.WAITING:
                self._report(outcome)
        try:
            for outcome in self.outcomes:
                if outcome.state is State.WAITING:
                    await self._add(jms, outcome)
                    if len(self._pending) >= _BATCH or time.monotonic() - self._flushed > _BATCH_SECONDS:
                        self._flush(sellers)
        finally:
            self._flush(sellers)
        await self._group(jms, sellers)

    async def _add(self, jms: JmsClient, outcome: Outcome) -> None:
        row = outcome.row
        try:
            seller = await self._confirmed(jms, row)
        except TopError as error:
            outcome.fail(str(error), error.remedy)
            self._report(outcome)
            self._weigh(error)
            return
        self._faults = 0
        if seller is None:
            missing = unconfirmed(row.nick)
            outcome.fail(str(missing), missing.remedy)
            self._report(outcome)
        else:
            outcome.user_id = seller.user_id
            self._pending.append((outcome, opened(seller, row.nick, row.topics)))

    async def _confirmed(self, jms: JmsClient, row: Row) -> JmsSeller | None:
        if self._stage(row) == Stage.ADDED:  # killed after that
            seller = await jms.get_user(row.nick)
            if seller is not None:
                return seller
        await jms.add_user(row.session, row.topics)
        self._journal.note([self._journal.mark(row)], Stage.ADDED)
        return await jms.get_user(row.nick)

    def _weigh(self, error: TopError) -> None:
        """Go on, or raise it."""
        self._faults = self._faults + 1 if error.retriable else 0
        if ends_everything(error) or self._faults >= MOST_FAULTS_IN_A_ROW:
            raise error

    def _flush(self, sellers: Sellers) -> None:
        """Let the store remember those that were added since the last time."""
        pending, self._pending = self._pending, []
        self._flushed = time.monotonic()
        if not pending:
            return
        try:
            sellers.remember([seller for _, seller in pending])
        except StoreError as error:
            for outcome, _ in pending:
                outcome.fail(f"the platform has added it, but the store does not remember it: {error}", AGAIN)
            raise amended(
                error,
                f"the platform has added {len(pending)} sellers that the store does not remember",
                AGAIN,
            ) from None
        self._journal.note([self._journal.mark(outcome.row) for outcome, _ in pending], Stage.DONE)
        for outcome, _ in pending:
            outcome.state = State.ADDED
            self._report(outcome)

    # --- groups -------------------------------------------------------------------------------------------

    async def _group(self, jms: JmsClient, sellers: Sellers) -> None:
        groups: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            row = outcome.row
            if row.group and outcome.is_open and self._stage(row) < Stage.GROUPED:
                groups.setdefault(row.group, []).append(outcome)
        for name, members in groups.items():
            for first in range(0, len(members), _IN_ONE_CALL):
                await self._put(jms, sellers, name, members[first : first + _IN_ONE_CALL])

    async def _put(self, jms: JmsClient, sellers: Sellers, name: str, members: list[Outcome]) -> None:
        nicks = [outcome.row.nick for outcome in members]
        try:
            await jms.add_group(name, nicks)
        except TopError as error:
            if len(members) > 1 and not error.retriable and not ends_everything(error):
                for member in members:  # one of them is at fault
                    await self._put(jms, sellers, name, [member])
                return
            for outcome in members:
                outcome.fail(f"it is added, but not put into the group {name}: {error}", error.remedy)
            self._weigh(error)
            return
        self._faults = 0
        sellers.put_into_group(name, nicks)
        self._journal.note([self._journal.mark(outcome.row) for outcome in members], Stage.GROUPED)
