"""What the commands share that call the platform: its address, the keys, one client for one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jst_bridge.cli.invocation import Invocation
from jst_bridge.errors import ConfigurationError
from jst_bridge.ops import logging
from jst_bridge.settings import Settings, values

if TYPE_CHECKING:
    from jst_bridge.top import JmsClient, TopSettings

__all__ = [
    "ask",
    "gateway_option",
    "json_option",
    "nick_argument",
    "nicks_argument",
    "rate_option",
    "top_settings",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else values.gateway(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _nick(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    from jst_bridge.onboarding import fault_of_nick

    for nick in value if isinstance(value, tuple) else (value,):
        fault = "" if nick is None else fault_of_nick(nick)
        if fault:
            raise click.BadParameter(fault)
    return value


def gateway_option(function: F) -> F:
    """--gateway"""
    return click.option(
        "--gateway", metavar="URL", callback=_url, help="The platform's gateway, instead of [app] gateway."
    )(function)


def rate_option(function: F) -> F:
    """--rate"""
    return click.option(
        "--rate",
        type=click.FloatRange(0, 10_000, min_open=True),
        default=20.0,
        show_default=True,
        metavar="N",
        help="At most so many calls a second.",
    )(function)


def json_option(function: F) -> F:
    """--json"""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")(function)


def nick_argument(function: F) -> F:
    """NICK, which can be one."""
    return click.argument("nick", metavar="NICK", callback=_nick)(function)


def nicks_argument(*, required: bool) -> Callable[[F], F]:
    """Some of them."""
    shown = "NICK..." if required else "[NICK]..."
    return click.argument("nicks", metavar=shown, nargs=-1, required=required, callback=_nick)


def top_settings(settings: Settings, gateway: str | None, rate: float | None = None) -> TopSettings:
    """The app at the platform. Raises ConfigurationError: there is no secret to sign with."""
    from jst_bridge.top import TopSettings

    app = settings.app
    if app.secret is None:
        raise ConfigurationError(
            f"{settings.file or 'environment'}: app.secret: there is none, and the platform takes signed calls only",
            remedy="write the app secret into a file of mode 0600, and name it with [app] secret_file;"
            " or set JST_APP__SECRET",
        )
    limits = {} if rate is None else {"calls_per_second": rate, "burst": max(1, min(10, int(rate)))}
    return TopSettings(
        app.key,
        app.secret.get_secret_value(),
        gateway=gateway or app.gateway,
        sign_method=app.sign_method,
        **limits,  # type: ignore[arg-type]
    )


def ask(
    invocation: Invocation,
    gateway: str | None,
    work: Callable[[JmsClient], Awaitable[T]],
    *,
    rate: float | None = None,
) -> T:
    """Run `work` with a client of the platform. Raises ConfigurationError, TopError and what `work` raises."""
    from jst_bridge.top import JmsClient, TopClient

    settings = invocation.settings()
    logging.configure("debug" if invocation.debug else "warning", settings.run.log_format)
    app = top_settings(settings, gateway, rate)

    async def run() -> T:
        async with TopClient(app) as top:
            return await work(JmsClient(top))

    return asyncio.run(run())
