"""One landed message as a short sentence for people: what happened, and the facts that matter."""

from __future__ import annotations

from jst_bridge.cli import output
from jst_bridge.errors import JstBridgeError
from jst_bridge.messages import Content, Decoder, lookup
from jst_bridge.ports import PlainDelivery
from jst_bridge.store import MessageRow

__all__ = ["Narrator", "title"]

_FACTS = (
    ("status", "{}"),
    ("payment", "payment {}"),
    ("post_fee", "postage {}"),
    ("refund_id", "refund {}"),
    ("refund_fee", "amount {}"),
    ("refund_phase", "{}"),
    ("bill_type", "{}"),
    ("action", "{}"),
    ("company_name", "{}"),
    ("out_sid", "waybill {}"),
    ("logistics_company_name", "{}"),
    ("logistics_id", "waybill {}"),
    ("num_iid", "item {}"),
    ("num", "quantity {}"),
    ("rater", "rated by {}"),
    ("seller_flag", "flag {}"),
)
"""Fields of the typed contents in the order they are told, with their words."""

_PROSE = (("seller_memo", "memo: {}"), ("feedback", "feedback: {}"), ("desc", "{}"))
"""Fields that people wrote: they may name a phone number."""


class Narrator:
    """Tells messages of one app. `raw` masks nothing."""

    def __init__(self, app_key: str, *, raw: bool) -> None:
        self._app_key = app_key
        self._raw = raw

    def tell(self, row: MessageRow) -> str:
        """`TradeBuyerPay 买家付款: payment 9.50`"""
        facts = self._facts(row)
        return f"{title(row.topic)}: {', '.join(facts)}" if facts else title(row.topic)

    def _facts(self, row: MessageRow) -> list[str]:
        content = self._content(row)
        facts = [f"line {row.oid}"] if row.oid and row.oid != row.tid else []
        for name, words in _FACTS:
            value = getattr(content, name, None)
            if value not in (None, "", 0):
                facts.append(words.format(value))
        for name, words in _PROSE:
            value = getattr(content, name, None)
            if value:
                facts.append(words.format(output.prose(str(value), raw=self._raw)))
        return facts

    def _content(self, row: MessageRow) -> Content | None:
        """The typed content, read from the body again; None when this version cannot read it any more."""
        delivery = PlainDelivery(
            body=row.body,
            tag=row.topic,
            keys="",
            transport_id="",
            origin_id="",
            offset=0,
            born_at=row.born_at,
        )
        try:
            content = Decoder(row.source, self._app_key).decode(delivery).content
        except JstBridgeError:
            return None
        return content if isinstance(content, Content) else None


def title(topic: str) -> str:
    """A message type with its official Chinese title, where the catalogue has one."""
    info = lookup(topic)
    words = [output.short_topic(topic), info.title.removesuffix("消息") if info is not None else ""]
    return " ".join(word for word in words if word)
