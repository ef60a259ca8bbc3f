"""What a store must hold once what was sent has landed, in whatever order and however often: kept beside the sending.

The rows are written down as the lives of the orders tell them, in the order in which things happened. No message is
read for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

from .disturbances import Outgoing
from .publishing import Published

__all__ = ["Truth"]

Columns = dict[str, Any]


class Truth:
    """Rows by key; values are what the columns hold: money and ids as text, instants in epoch ms, None for NULL.

    `outgoing_ids`: outgoing_id -> (topic, seller's nick, tid or None), one per message. `trades`: tid -> columns.
    `trade_lines`: (tid, oid) -> columns. `refunds`: refund_id -> columns. `traces`: outgoing_id -> columns.
    `bad`: body -> the reason of its dead letter, with how often it was sent.
    """

    def __init__(self) -> None:
        self.messages: dict[int, tuple[str, str, str | None]] = {}
        self.trades: dict[str, Columns] = {}
        self.trade_lines: dict[tuple[str, str], Columns] = {}
        self.refunds: dict[str, Columns] = {}
        self.traces: dict[int, Columns] = {}
        self.bad: Counter[tuple[str, bytes]] = Counter()

    @classmethod
    def of(cls, sent: Iterable[Outgoing | None]) -> Self:
        """The truth of what was sent, in whatever order it was sent."""
        truth = cls()
        published: dict[int, Published] = {}
        for outgoing in filter(None, sent):
            if outgoing.message is None:
                truth.bad[outgoing.reason, outgoing.body] += 1
            else:
                published[outgoing.message.outgoing_id] = outgoing.message
        for message in sorted(published.values(), key=lambda message: message.at):
            truth.add(message)
        return truth

    def add(self, message: Published) -> None:
        """Take in a message; they come in the order of publishing, each once."""
        happening = message.happening
        tid = str(happening.order.tid)
        of_order = "tid" in happening.content
        self.messages[message.outgoing_id] = happening.topic, message.seller.nick, tid if of_order else None
        who: Columns = {"seller": message.seller.nick, "user_id": str(message.seller.user_id)}
        told = {**who, "topic": happening.topic}
        if happening.trade:
            row = self.trades.setdefault(tid, {"seller_memo": None, "seller_flag": None})
            row |= {"status": None, "payment": None, "post_fee": None, **row, **told, **happening.trade}
        if happening.line is not None:
            oid, says = happening.line
            self.trade_lines.setdefault((tid, str(oid)), {}).update(told | says)
        if happening.refund is not None:
            refund_id, says = happening.refund
            row = self.refunds.setdefault(str(refund_id), {})
            row |= {**told, **says, "modified_at": message.said_at}
        if happening.trace is not None:
            self.traces[message.outgoing_id] = {**who, **happening.trace, "traced_at": message.said_at}
