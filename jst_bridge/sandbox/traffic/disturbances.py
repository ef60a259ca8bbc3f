"""What goes wrong on the way: messages that come twice, late, out of order, and bodies that nobody can read."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from .publishing import Published

__all__ = ["Disturbances", "Outgoing", "disturbed"]

_NEAR: Final = 50
_FAR: Final = 5_000
"""How many messages later a copy, or a message out of order, goes out at most; a late one."""


@dataclass(frozen=True, slots=True)
class Disturbances:
    """Shares of all messages, 0 to 1."""

    bad: float = 0.0
    """Bodies put between the others that cannot be decoded."""
    duplicates: float = 0.0
    """Messages that are sent once more, up to 50 messages later."""
    out_of_order: float = 0.0
    """Messages that are sent up to 50 messages late."""
    late: float = 0.0
    """Messages that are sent 50 to 5,000 messages late."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is sent to the broker. One of `message` and `reason` says what it is."""

    tag: str
    keys: str
    body: bytes
    message: Published | None
    """None for a bad one."""
    reason: str = ""
    """The word a dead letter has to carry for it (`messages.envelope.REASONS`)."""
    again: bool = False
    """A copy of a message that goes out, too."""


def disturbed(
    published: Iterable[Published | None], rates: Disturbances, seed: int
) -> Iterator[Outgoing | None]:
    """The messages as they go out; None, which nobody published, stays None.

    Whatever is held back goes out at the end: nothing is lost here.
    """
    chance = random.Random(f"disturbances {seed}")
    held: list[tuple[int, int, Outgoing]] = []
    count = 0
    for place, message in enumerate(published):
        if message is None:
            yield None
        else:
            delay = 0
            if chance.random() < rates.late:
                delay = chance.randrange(_NEAR, _FAR)
            elif chance.random() < rates.out_of_order:
                delay = chance.randrange(1, _NEAR)
            leaving = [(place + delay, False)]
            if chance.random() < rates.duplicates:
                leaving.append((place + delay + chance.randrange(1, _NEAR), True))
            for at, again in leaving:
                count += 1
                outgoing = Outgoing(message.tag, message.keys, message.body, message, again=again)
                heapq.heappush(held, (at, count, outgoing))
            if chance.random() < rates.bad:
                yield _bad(chance, message)
        while held and held[0][0] <= place:
            yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]


def _bad(chance: random.Random, like: Published) -> Outgoing:
    """A body that cannot be decoded, unlike every other one, and why it cannot."""
    mark = f"{like.outgoing_id}"
    tag = like.tag
    kinds: dict[str, bytes] = {
        "not_json": like.body.decode()[: chance.randrange(2, 300)].encode(),
        "not_text": f"订单{mark}".encode("gbk"),
        "not_an_object": json.dumps([like.tag, mark]).encode(),
        "not_an_envelope": json.dumps({"seq": mark}).encode(),
        "bad_content": json.dumps(
            {"topic": tag, "outgoing_id": like.outgoing_id, "content": f"tid={mark}"}
        ).encode(),
        "error_response": json.dumps({"error_response": {"code": 15, "request_id": mark}}).encode(),
        "rds_row": json.dumps({"trade_fullinfo_get_response": {"trade": {"tid": mark}}}).encode(),
    }
    reason = chance.choice(sorted(kinds))
    # Under the tag of a known message type an object without envelope is taken for that type's content.
    return Outgoing("probe" if reason == "not_an_envelope" else tag, like.keys, kinds[reason], None, reason)
