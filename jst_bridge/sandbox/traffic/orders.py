"""Sellers and their orders as the generator makes them up: true shapes, invented names and numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Line", "Order", "Seller", "new_order", "sellers", "weights"]

_FIRST_USER_ID: Final = 733_740_000
_ROMAN: Final = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz023456789_"
_GOODS: Final = ("户外运动", "茶叶", "童装", "数码", "花卉", "图书", "厨具", "宠物用品")


@dataclass(frozen=True, slots=True)
class Seller:
    """One seller (卖家): `nick` is what messages are keyed by (user_nick)."""

    nick: str
    user_id: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line (子订单) of an order; amounts in fen (分)."""

    oid: int
    num_iid: int
    sku_id: int
    payment: int


@dataclass(frozen=True, slots=True)
class Order:
    """One order (订单). With a single line its oid is the tid; amounts in fen (分)."""

    tid: int
    seller: Seller
    lines: tuple[Line, ...]
    post_fee: int
    buyer_nick: str
    buyer_open_uid: str

    @property
    def payment(self) -> int:
        return self.post_fee + sum(line.payment for line in self.lines)

    @property
    def split(self) -> bool:
        """Whether its lines have ids of their own."""
        return len(self.lines) > 1


def sellers(count: int, seed: int) -> list[Seller]:
    """So many sellers, the same ones for a seed."""
    chance = random.Random(f"sellers {seed}")
    return [
        Seller(
            f"{chance.choice('云山花茶禾雪')}{chance.choice('木星桥湖鹿舟')}{chance.choice(_GOODS)}旗舰店{n}",
            _FIRST_USER_ID + n,
        )
        for n in range(count)
    ]


def weights(count: int, skew: float) -> list[float]:
    """How often each seller's turn comes: the n-th has 1 / n ** skew of the first one's share (Zipf)."""
    return [1 / n**skew for n in range(1, count + 1)]


def new_order(chance: random.Random, seller: Seller, tid: int, *, several: float) -> Order:
    """An order with this tid; the share `several` of all has two to four lines."""
    count = chance.choice((2, 2, 3, 4)) if chance.random() < several else 1
    lines = tuple(
        Line(
            oid=tid if count == 1 else tid + number * 1_000_000,
            num_iid=chance.randrange(520_000_000_000, 690_000_000_000),
            sku_id=chance.randrange(4_000_000_000_000, 5_000_000_000_000),
            payment=chance.randrange(100, 60_000),
        )
        for number in range(1, count + 1)
    )
    return Order(
        tid=tid,
        seller=seller,
        lines=lines,
        post_fee=chance.choice((0, 0, 800)),
        buyer_nick=f"{chance.choice('abcdefghjkmnpqrstuvwxyz小李张')}**",
        buyer_open_uid=f"AAH{''.join(chance.choices(_ROMAN, k=21))}",
    )


def pick(chance: random.Random, among: Sequence[Line]) -> Line:
    """One of the lines."""
    return among[chance.randrange(len(among))]
