"""Calls a sandbox gateway as a client would, with nothing of the client under test in between."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import httpx2

from jst_bridge.sandbox.top import TopGateway, signature

KEY, SECRET = "12345678", "CANARY-secret"
NICK, SESSION = "商家测试帐号17", "CANARY-session"
TOPICS = ("taobao_refund_RefundCreated", "taobao_trade_TradeBuyerPay")
ADD, DELETE, GET, TOPICS_GET, GROUP_ADD, GROUP_DELETE, GROUP_GET = (
    f"taobao.jushita.jms.{name}"
    for name in (
        "user.add",
        "user.delete",
        "user.get",
        "topics.get",
        "group.add",
        "group.delete",
        "group.get",
    )
)
FORM = {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}

http = httpx2.Client(limits=httpx2.Limits(max_keepalive_connections=0), timeout=10, trust_env=False)
"""Keeps no connection, so there is nothing to close; one for all, because making one is slow."""


def ready() -> TopGateway:
    """A gateway, not started, with one app and one seller who is not open yet."""
    gateway = TopGateway()
    gateway.add_app(KEY, SECRET, topics=TOPICS)
    gateway.add_seller(NICK, session=SESSION)
    return gateway


def signed(gateway: TopGateway, api: str, **changes: str | None) -> dict[str, str]:
    """A good request, but for the changes; None leaves a parameter out."""
    beijing = datetime.fromtimestamp(gateway.now, timezone(timedelta(hours=8)))
    usual: dict[str, str | None] = {
        "method": api,
        "app_key": KEY,
        "timestamp": beijing.strftime("%Y-%m-%d %H:%M:%S"),
        "format": "json",
        "v": "2.0",
        "sign_method": "hmac-sha256",
    }
    request = {name: value for name, value in (usual | changes).items() if value is not None}
    if "sign" not in changes and request.get("sign_method") in ("md5", "hmac", "hmac-sha256"):
        request["sign"] = signature(request, SECRET, request["sign_method"])
    return request


def post(gateway: TopGateway, form: dict[str, str], **options: Any) -> httpx2.Response:
    return http.post(gateway.url, content=urlencode(form), headers=FORM, **options)


def call(gateway: TopGateway, api: str, **changes: str | None) -> dict[str, Any]:
    """The fields of a success, or the content of the error."""
    response = post(gateway, signed(gateway, api, **changes))
    assert response.status_code == 200
    (root,) = response.json().values()
    assert 12 <= len(root.pop("request_id")) <= 13
    fields: dict[str, Any] = root
    return fields


def code_of(answer: httpx2.Response) -> int:
    """The code of an error, in JSON or XML."""
    if answer.text.startswith("<?xml"):
        return int(ElementTree.fromstring(answer.text).findtext("code") or 0)
    return int(answer.json()["error_response"]["code"])


def control(gateway: TopGateway, verb: str, path: str, document: object = None) -> httpx2.Response:
    """One request to the control endpoints, with the token."""
    headers = {"Authorization": f"Bearer {gateway.token}"}
    return http.request(verb, f"{gateway.control_url}/{path}", json=document, headers=headers)
