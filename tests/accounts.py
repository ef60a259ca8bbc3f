"""Accounts and permissions on brokers that ask for keys: plain ACL of 4.9.7, ACL 2.0 of 5.3.3 (reference 5.4, 5.5)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, cast

from jst_bridge.rocketmq import Client, ClientSettings, Credentials
from jst_bridge.rocketmq.codes import Request
from tests.cluster import Cluster

__all__ = ["ROOT", "Accounts", "asking_for_keys"]

ROOT = Credentials("rootroot", "canary-root-secret")
"""May do everything."""
_PROVIDERS = {
    f"{kind}MetadataProvider": f"org.apache.rocketmq.auth.{kind}.provider.Local{name}MetadataProvider"
    for kind, name in (("authentication", "Authentication"), ("authorization", "Authorization"))
}


class AdminCode(IntEnum):
    """Requests of ACL 2.0 (reference 5.5)."""

    CREATE_USER = 3001
    CREATE_ACL = 3006
    DELETE_ACL = 3008


def asking_for_keys(version: str) -> dict[str, Any]:
    """Options of a Cluster whose broker asks for keys, and knows ROOT's only."""
    if version.startswith("4"):
        return {
            "version": version,
            "properties": {"aclEnable": "true"},
            "files": {"conf/plain_acl.yml": _plain_accounts("")},
        }
    return {
        "version": version,
        "properties": {
            **_PROVIDERS,
            "authenticationEnabled": "true",
            "authorizationEnabled": "true",
            "initAuthenticationUser": json.dumps({"username": ROOT.access_key, "password": ROOT.secret_key}),
            "innerClientAuthenticationCredentials": json.dumps(
                {"accessKey": "inner", "secretKey": "inner-secret"}
            ),
        },
    }


class Accounts:
    """One ordinary account of a broker, and what it may do."""

    def __init__(self, cluster: Cluster, key: str, secret: str) -> None:
        self._cluster = cluster
        self._key = key
        self._secret = secret
        self._made = False

    def allow(self, topics: Mapping[str, str], groups: Mapping[str, str]) -> None:
        """Exactly these permissions, as ACL 2.0 writes them (`Sub,Get`); plain ACL knows Sub and Pub of them.

        In force at once on 5.3.3, within some 2 s on 4.9.7.
        """
        if self._cluster.version.startswith("4"):
            file = self._cluster.broker.home / "conf" / "plain_acl.yml"
            file.write_text(_plain_accounts(self._plain_account(topics, groups)))
        else:
            asyncio.run(self._allow(topics, groups))

    def _plain_account(self, topics: Mapping[str, str], groups: Mapping[str, str]) -> str:
        def entries(permissions: Mapping[str, str]) -> str:
            known = {
                name: [one for one in said.split(",") if one in ("Sub", "Pub")]
                for name, said in permissions.items()
            }
            return json.dumps([f"{name}={'|'.join(said).upper()}" for name, said in known.items() if said])

        return f"""
  - accessKey: "{self._key}"
    secretKey: {self._secret}
    admin: false
    defaultTopicPerm: DENY
    defaultGroupPerm: DENY
    topicPerms: {entries(topics)}
    groupPerms: {entries(groups)}
"""

    async def _allow(self, topics: Mapping[str, str], groups: Mapping[str, str]) -> None:
        client = Client(ClientSettings((self._cluster.name_server,), ROOT))
        resources = {f"Topic:{name}": said for name, said in topics.items()}
        resources |= {f"Group:{name}": said for name, said in groups.items()}
        entries = [
            {"resource": resource, "actions": said.split(","), "decision": "Allow"}
            for resource, said in resources.items()
        ] or [{"resource": "Topic:nothing", "actions": ["Sub"], "decision": "Allow"}]
        user = {"username": self._key, "password": self._secret, "userType": "Normal"}
        acl = {"subject": f"User:{self._key}", "policies": [{"policyType": "Custom", "entries": entries}]}
        try:
            if self._made:  # an update keeps the entries that it does not name
                await self._ask(client, AdminCode.DELETE_ACL, {"subject": f"User:{self._key}"}, None)
            else:
                await self._ask(client, AdminCode.CREATE_USER, {"username": self._key}, user)
            await self._ask(client, AdminCode.CREATE_ACL, {"subject": f"User:{self._key}"}, acl)
        finally:
            await client.close()
        self._made = True

    async def _ask(self, client: Client, code: AdminCode, ext: dict[str, str], body: object) -> None:
        """Requests that the project itself has no name for."""
        data = json.dumps(body).encode() if body is not None else b""
        await client.call(self._cluster.broker_address, cast("Request", code), ext, data)


def _plain_accounts(more: str) -> str:
    return f"""globalWhiteRemoteAddresses: []
accounts:
  - accessKey: {ROOT.access_key}
    secretKey: {ROOT.secret_key}
    admin: true
{more}"""
