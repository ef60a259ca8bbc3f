"""Who may be served: signatures checked by code of its own, not by the client's (reference 5.2 to 5.5)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from jst_bridge.rocketmq.codes import Response

from .calls import Call, Refusal
from .codes import Request
from .settings import Account, SandboxSettings

__all__ = ["Accounts"]

_UNSIGNED: Final = frozenset({"Signature"})
_LAST_WITHOUT_FLAG: Final = 399
"""Clients up to this version do not sign `_UNIQUE_KEY_QUERY`; 4.9 servers never count it."""
_FREE_PREFIXES: Final = ("%RETRY%",)


class Accounts:
    """The accounts of a broker that wants signatures."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._modern = settings.modern
        self._accounts = {account.access_key: account for account in settings.accounts}

    def admit(self, call: Call) -> None:
        """Refusal: unsigned, unknown, wrongly signed, or a topic that is not the account's."""
        key = call.ext.get("AccessKey", "")
        account = self._accounts.get(key)
        if not key:
            raise self._refusal("username cannot be null.", "No accessKey is configured")
        if account is None:
            raise self._refusal(f"User:{key} is not found.", f"No acl config for {key}")
        if not hmac.compare_digest(self._signature(call, account), call.ext.get("Signature", "").encode()):
            raise self._refusal("check signature failed.", f"Check signature failed for accessKey={key}")
        for topic in _topics(call) if account.topics is not None else ():
            if topic not in (account.topics or ()) and not topic.startswith(_FREE_PREFIXES):
                host = call.channel.address.rpartition(":")[0]
                raise self._refusal(
                    f"User:{key} has no permission to access Topic:{topic} from {host}, no matched policies.",
                    f"No default permission for topic:{topic}",
                )

    def _signature(self, call: Call, account: Account) -> bytes:
        left_out = _UNSIGNED
        if not self._modern or call.frame.version <= _LAST_WITHOUT_FLAG:
            left_out |= {"_UNIQUE_KEY_QUERY"}
        text = "".join(call.ext[name] for name in sorted(call.ext) if name not in left_out)
        digest = hmac.new(account.secret_key.encode(), text.encode() + call.frame.body, hashlib.sha1).digest()
        return base64.b64encode(digest)

    def _refusal(self, modern: str, plain: str) -> Refusal:
        if self._modern:
            return Refusal(Response.NO_PERMISSION, modern)
        return Refusal(
            Response.SYSTEM_ERROR,
            f"org.apache.rocketmq.acl.common.AclException: {plain}, "
            "org.apache.rocketmq.acl.plain.PlainPermissionManager.validate(PlainPermissionManager.java:683)",
        )


def _topics(call: Call) -> list[str]:
    """The topics a request reads or writes."""
    if call.frame.code == Request.HEART_BEAT:
        return [
            str(entry["topic"])
            for group in call.json().get("consumerDataSet") or ()
            for entry in group.get("subscriptionDataSet") or ()
        ]
    if call.frame.code == Request.CONSUMER_SEND_MSG_BACK:
        return []
    return [call.topic] if call.topic else []
