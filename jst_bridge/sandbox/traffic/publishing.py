"""From a happening to the message of it: the ONS envelope, its content a string that holds JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from .lives import Happening
from .orders import Seller

__all__ = ["Published", "publish"]

PUBLISHER: Final = "12497914"
"""The platform's own app key (publisher_appkey), the same in every sample."""
_BEIJING: Final = timezone(timedelta(hours=8))


@dataclass(frozen=True, slots=True)
class Published:
    """One message as Taobao publishes it."""

    outgoing_id: int
    at: int
    """publish_time: epoch ms."""
    happening: Happening
    tag: str
    keys: str
    """The tid as text; '' for messages of items."""
    body: bytes = field(repr=False)

    @property
    def seller(self) -> Seller:
        return self.happening.order.seller

    @property
    def said_at(self) -> int:
        """The time in the content, epoch ms: whole seconds, as the platform writes them."""
        return self.at // 1000 * 1000


def publish(outgoing_id: int, happening: Happening, at: int) -> Published:
    """The message of `happening`, published `at` epoch ms."""
    text = datetime.fromtimestamp(at / 1000, UTC).astimezone(_BEIJING).strftime("%Y-%m-%d %H:%M:%S")
    content: dict[str, Any] = dict(happening.content)
    if happening.trace is not None:
        content["time"] = text  # traces name no seller and have no `modified`
    elif "tid" in content:
        content["modified"] = text
    if "end_time" in content:
        content["end_time"] = text
    seller = happening.order.seller
    envelope = {
        "topic": happening.topic,
        "content": json.dumps(content, ensure_ascii=False, separators=(",", ":")),
        "outgoing_id": outgoing_id,
        "publish_time": at,
        "publisher_appkey": PUBLISHER,
        "user_id": seller.user_id,
        "user_nick": seller.nick,
    }
    body = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
    keys = str(content.get("tid", ""))
    return Published(outgoing_id, at, happening, happening.topic, keys, body)
