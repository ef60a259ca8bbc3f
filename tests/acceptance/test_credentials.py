"""Keys on real brokers that ask for them: right, wrong, missing, and lacking a permission; plain ACL and ACL 2.0."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from jst_bridge.errors import CredentialsRefused
from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, Credentials, Producer
from tests.accounts import ROOT, Accounts, asking_for_keys
from tests.bridge_process import Installation, Outcome
from tests.cluster import ROCKETMQ_VERSIONS, Cluster, wait_until
from tests.traffic import traffic

KEY, SECRET, WRONG = "12345678", "canary-right-secret", "canary-wrong-secret"
both_versions = pytest.mark.parametrize("version", ROCKETMQ_VERSIONS)


def publish(cluster: Cluster, topic: str, messages: int, *, seed: int = 0) -> None:
    async def send() -> None:
        async with Producer(ClientSettings((cluster.name_server,), ROOT)) as producer:
            for fact in traffic(messages, seed=seed):
                await producer.send(topic, fact.body, tag=fact.tag)

    asyncio.run(send())


def start_refused(cluster: Cluster, topic: str, group: str, lack: str) -> str:
    """What a consumer that starts is told, once it says this."""
    settings = ClientSettings((cluster.name_server,), Credentials(KEY, SECRET, channel="CLOUD"))
    said = ""

    async def start() -> None:
        nonlocal said
        try:
            async with Consumer(ConsumerSettings(settings, group, {topic: "*"})):
                said = "it started"
        except CredentialsRefused as error:
            said = f"{error}; {error.remedy}"

    def says_it() -> bool:
        asyncio.run(start())
        return lack in said

    wait_until(says_it, f"{lack!r}", 30)
    return said


def settled(run: Callable[[], Outcome], text: str) -> Outcome:
    """The outcome once it says this: a 4.9 broker notices changed accounts after a moment."""
    outcome = run()

    def says_it() -> bool:
        nonlocal outcome
        if text not in outcome.out + outcome.err:
            outcome = run()
        return text in outcome.out + outcome.err

    wait_until(says_it, f"{text!r} in {outcome}", 30)
    return outcome


@both_versions
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_right_keys_land_and_wrong_or_missing_ones_are_refused_with_77(
    tmp_path: Path, own_cluster: Callable[..., Cluster], topic: str, group: str, version: str
) -> None:
    cluster = own_cluster(**asking_for_keys(version))
    Accounts(cluster, KEY, SECRET).allow({topic: "Sub,Get"}, {group: "Sub,Get"})
    publish(cluster, topic, 20)
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    right, wrong = {"JST_APP__SECRET": SECRET}, {"JST_APP__SECRET": WRONG}

    ready = settled(
        lambda: installation.run("check", "--connect", environ=right), f"requests of {KEY} are accepted"
    )
    assert ready.code == 0, ready.out
    landed = installation.run("run", "--drain", environ=right)
    assert landed.code == 0, landed.err
    assert installation.count() == 20
    outcomes = [ready, landed]
    # As open-source clients sign: without a channel, with keys of the source itself.
    own = {
        "JST_SOURCE__0__CREDENTIALS": "acl",
        "JST_SOURCE__0__ACCESS_KEY": KEY,
        "JST_SOURCE__0__SECRET_KEY": SECRET,
    }
    assert installation.run("check", "--connect", environ=own).code == 0

    for words in (["run"], ["status"], ["check", "--connect"]):
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
    assert "app.secret" in unsigned.err
    for outcome in outcomes:
        assert "canary" not in outcome.out + outcome.err


@both_versions
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_missing_permission_is_named_and_one_that_is_withdrawn_ends_the_run(
    tmp_path: Path, own_cluster: Callable[..., Cluster], topic: str, group: str, version: str
) -> None:
    cluster = own_cluster(**asking_for_keys(version))
    accounts = Accounts(cluster, KEY, SECRET)
    publish(cluster, topic, 5)
    installation = Installation(
        tmp_path, cluster.name_server, topic, group, environ={"JST_APP__SECRET": SECRET}
    )
    cases = [
        ({}, {group: "Sub,Get"}, f"lacks Sub on topic {topic}"),
        ({topic: "Sub,Get"}, {}, f" on group {group}"),
    ]
    if version.startswith("5"):  # offset queries ask for nothing but a signature on 4.9
        cases.append(({topic: "Sub"}, {group: "Sub,Get"}, f"lacks Get on topic {topic}"))
    for topics, groups, lack in cases:
        accounts.allow(topics, groups)
        said = start_refused(cluster, topic, group, lack)
        assert f"access key {KEY}, which lacks" in said
        assert cluster.broker_address in said
        assert f"to access key {KEY}" in said

    looked = installation.run("check", "--connect")
    assert looked.code == 77, looked.out
    assert f"access key {KEY}, which lacks" in looked.out

    accounts.allow({topic: "Sub,Get"}, {group: "Sub,Get"})
    settled(lambda: installation.run("check", "--connect"), f"requests of {KEY} are accepted")
    with installation.start() as process:
        installation.wait_for(5)
        accounts.allow({}, {group: "Sub,Get"})
        published = 0

        def ended() -> bool:
            """A parked pull is not looked at again until a message ends it."""
            nonlocal published
            if process.process.poll() is None:
                published += 1
                publish(cluster, topic, 8, seed=published)
            return process.process.poll() is not None

        wait_until(ended, "the run to end", 60)
        outcome = process.wait()
    assert outcome.code == 77, outcome.err
    assert f"which lacks Sub on topic {topic}" in outcome.err
    assert outcome.err.count("refused PULL_MESSAGE") <= 8, "no storm: at most one line for each queue"


def test_a_token_is_signed_with_and_refused_keys_are_read_again(
    tmp_path: Path, own_cluster: Callable[..., Cluster], topic: str, group: str
) -> None:
    """Open-source brokers do not look at a token, but take it for a part of the signature."""
    cluster = own_cluster(**asking_for_keys("5.3.3"))
    Accounts(cluster, KEY, SECRET).allow({topic: "Sub,Get"}, {group: "Sub,Get"})
    publish(cluster, topic, 5)
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "token").write_text("canary-token")
    source = {"access_key": KEY, "secret_key_file": "secret", "security_token_file": "token"}
    installation = Installation(tmp_path, cluster.name_server, topic, group, source=source)
    landed = installation.run("run", "--drain")
    assert landed.code == 0, landed.err
    assert installation.count() == 5
    (tmp_path / "secret").write_text(WRONG)
    refused = installation.run("run")
    assert refused.code == 77, refused.err
    assert "secret_key of source rocketmq, and the security token, which may have expired" in refused.err
    assert "canary" not in refused.err + landed.err


def test_credentials_are_values_without_secrets_in_their_text() -> None:
    assert "canary" not in repr(Credentials(KEY, SECRET, "canary-token"))
