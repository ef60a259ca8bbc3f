"""Orders for the sandbox that a configuration points at, which runs in another process."""

from __future__ import annotations

from typing import Final

import msgspec

from jst_bridge.errors import ConfigurationError, RequestTimeout
from jst_bridge.reaching import client_settings
from jst_bridge.rocketmq.codes import Response
from jst_bridge.rocketmq.connection import Connection
from jst_bridge.settings import Settings

from .rocketmq.codes import CONTROL
from .rocketmq.control import Order, Report
from .trading import sandbox_of

__all__ = ["give"]

_PATIENCE: Final = 5.0


async def give(settings: Settings, order: Order) -> Report:
    """Have an order carried out. Raises ConfigurationError when that is no sandbox, or for an order without sense;
    ConnectionFailed.
    """
    sandbox_of(settings)
    client = client_settings(settings, settings.source[0])
    (address, *_) = client.name_servers
    body, fields = msgspec.json.encode(order), dict[str, str]()
    if client.credentials is not None:
        client.credentials.current().sign(fields, body)
    connection = await Connection.open(address, timeout=_PATIENCE, on_request=lambda *_: None)
    try:
        answer = await connection.request(CONTROL, fields, body, timeout=_PATIENCE)
    except RequestTimeout:
        raise _stranger(address) from None
    finally:
        connection.abort("done")
    if answer.code == Response.REQUEST_CODE_NOT_SUPPORTED:
        raise _stranger(address)
    if answer.code != 0:
        keys = answer.code == Response.NO_PERMISSION
        raise ConfigurationError(
            f"the sandbox at {address} refuses: {answer.remark}",
            remedy="use the FILE that `jst-bridge sandbox --write FILE` wrote last" if keys else "",
        )
    return msgspec.json.decode(answer.body, type=Report)


def _stranger(address: str) -> ConfigurationError:
    return ConfigurationError(
        f"{address} is the name server of no sandbox",
        remedy="run `jst-bridge sandbox --write sandbox.toml`, and name that file with -c",
    )
