"""TLS on real servers that take nothing else and ask for client certificates: trusted, and not trusted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from jst_bridge.errors import ConnectionFailed
from jst_bridge.rocketmq import Client, ClientSettings, Producer
from jst_bridge.rocketmq.tls import Tls
from tests.bridge_process import Installation
from tests.certificates import Authority, Identity
from tests.cluster import ROCKETMQ_VERSIONS, Cluster
from tests.traffic import Truth, traffic


def enforcing(authority: Authority, server: Identity, directory: Path) -> dict[str, object]:
    """Options of a Cluster that speaks TLS only, and with clients of this authority only."""
    both = {"trustCertPath": authority.ca_file, "keyPath": server.key_file, "certPath": server.cert_file}
    properties = {
        "tls.test.mode.enable": "false",
        "tls.server.need.client.auth": "require",
        "tls.server.authClient": "true",
        "tls.client.authServer": "false",  # what the broker asks of its name server is not what is tested
        **{f"tls.{side}.{key}": path for side in ("server", "client") for key, path in both.items()},
    }
    file = directory / "tls.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    context = ssl.create_default_context(cafile=authority.ca_file)
    context.load_cert_chain(server.cert_file, server.key_file)
    return {
        "server_options": (
            "-Dtls.server.mode=enforcing",
            "-Dtls.enable=true",
            f"-Dtls.config.file={file}",
        ),
        "tls": context,
    }


@pytest.mark.parametrize("version", ROCKETMQ_VERSIONS)
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_servers_of_a_trusted_ca_are_read_and_every_mistake_is_told(
    tmp_path: Path, own_cluster: Callable[..., Cluster], topic: str, group: str, version: str
) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    server, mine = authority.issue("127.0.0.1"), authority.issue("bridge", name="bridge")
    cluster = own_cluster(version=version, **enforcing(authority, server, tmp_path))
    facts = list(traffic(20))

    async def publish() -> None:
        settings = ClientSettings(
            (cluster.name_server,), tls=Tls(authority.ca_file, mine.cert_file, mine.key_file)
        )
        async with Producer(settings) as producer:
            for fact in facts:
                await producer.send(topic, fact.body, tag=fact.tag)

    asyncio.run(publish())
    installation = Installation(tmp_path, cluster.name_server, topic, group)

    def environ(ca: Authority, client: Identity | None, **more: str) -> dict[str, str]:
        keys = {"CA_FILE": str(ca.ca_file), **more}
        if client is not None:
            keys |= {"CERT_FILE": str(client.cert_file), "KEY_FILE": str(client.key_file)}
        return {f"JST_SOURCE__0__TLS__{key}": value for key, value in keys.items()}

    landed = installation.run("run", "--drain", environ=environ(authority, mine))
    assert landed.code == 0, landed.err
    installation.assert_equals(Truth.of(facts))
    looked = installation.run("check", "--connect", environ=environ(authority, mine))
    assert looked.code == 0, looked.out
    assert "accepts connections over TLS" in looked.out

    mistakes = [
        (environ(stranger, mine), 69, "is not signed by a CA in", "tls.ca_file"),
        (
            environ(authority, mine, SERVER_NAME="other.example.com"),
            69,
            "for another host",
            "tls.server_name",
        ),
        (environ(authority, None), 77, "a client without certificate", "tls.cert_file"),
        (environ(authority, stranger.issue("x", name="x")), 77, "the client certificate", "tls.cert_file"),
        ({}, 69, cluster.name_server, "[source.tls]"),
    ]
    for settings, code, problem, remedy in mistakes:
        refused = installation.run("run", environ=settings)
        assert refused.code == code, refused.err
        assert problem in refused.err
        assert remedy in refused.err
        assert cluster.name_server in refused.err
        assert "Traceback" not in refused.err


@pytest.mark.parametrize("version", ROCKETMQ_VERSIONS)
def test_a_certificate_that_a_server_made_for_itself_takes_insecure(
    own_cluster: Callable[..., Cluster], version: str
) -> None:
    """Out of the box the servers speak TLS, too, with a self-signed certificate for `localhost`."""
    cluster = own_cluster(version=version, server_options=("-Dtls.server.mode=permissive",))
    assert list((cluster.broker.home / "tmp").glob("keyutil_*"))  # its key, and not in /tmp

    async def look(tls: Tls) -> dict[str, dict[int, str]]:
        # The first handshake of a server on a busy machine takes its time.
        client = Client(ClientSettings((cluster.name_server,), tls=tls, connect_timeout=30.0))
        try:
            found = await client.fetch_cluster()
            for broker in found.values():
                await client.connection(broker[0])
            return found
        finally:
            await client.close()

    with pytest.raises(ConnectionFailed, match="is not signed by a CA that this system trusts") as caught:
        asyncio.run(look(Tls(server_name="localhost")))
    assert "tls.ca_file" in caught.value.remedy
    assert asyncio.run(look(Tls(insecure=True)))
