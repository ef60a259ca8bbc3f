"""Keys on a real broker that asks for them (ACL 2.0): signed with OnsChannel, right, wrong and missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jst_bridge.rocketmq import ClientSettings, Credentials, Producer
from tests.bridge_process import Installation
from tests.cluster import Cluster
from tests.traffic import traffic

KEY, SECRET, WRONG = "12345678", "canary-right-secret", "canary-wrong-secret"
PROVIDERS = "org.apache.rocketmq.auth"
ACL = {
    "authenticationEnabled": "true",
    "authenticationMetadataProvider": f"{PROVIDERS}.authentication.provider.LocalAuthenticationMetadataProvider",
    "authorizationEnabled": "true",
    "authorizationMetadataProvider": f"{PROVIDERS}.authorization.provider.LocalAuthorizationMetadataProvider",
    "initAuthenticationUser": json.dumps({"username": KEY, "password": SECRET}),
    "innerClientAuthenticationCredentials": json.dumps({"accessKey": "inner", "secretKey": "inner-secret"}),
}


@pytest.mark.timeout(180)
def test_right_keys_land_and_wrong_or_missing_ones_are_refused_with_77(
    tmp_path: Path, own_cluster: Callable[..., Cluster], topic: str, group: str
) -> None:
    cluster = own_cluster(properties=ACL)

    async def publish() -> None:
        credentials = Credentials(KEY, SECRET, channel="CLOUD")
        async with Producer(ClientSettings((cluster.name_server,), credentials)) as producer:
            for fact in traffic(20):
                await producer.send(topic, fact.body, tag=fact.tag)

    asyncio.run(publish())
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    right, wrong = {"JST_APP__SECRET": SECRET}, {"JST_APP__SECRET": WRONG}

    landed = installation.run("run", "--drain", environ=right)
    assert landed.code == 0, landed.err
    assert installation.count() == 20
    outcomes = [landed, installation.run("check", "--connect", environ=right)]
    assert outcomes[-1].code == 0, outcomes[-1].out

    for words in (["run"], ["run", "--drain"], ["status"], ["check", "--connect"]):
        refused = installation.run(*words, environ=wrong)
        outcomes.append(refused)
        assert refused.code == 77, refused.err
        assert "signature" in refused.out + refused.err
        assert f"access key {KEY}" in refused.out + refused.err
        assert cluster.broker_address in refused.out + refused.err
        assert "app.secret" in refused.out + refused.err
        assert "Traceback" not in refused.err
    unsigned = installation.run("run")
    assert unsigned.code == 77
    assert "unsigned" in unsigned.err
    for outcome in outcomes:
        assert "canary" not in outcome.out + outcome.err
