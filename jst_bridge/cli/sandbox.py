"""`jst-bridge sandbox`: a platform on this machine to work with; `sandbox traffic` makes its sellers sell."""

from __future__ import annotations

import asyncio
import signal
import threading
from pathlib import Path

import click

from jst_bridge.cli import output, sandbox_fault
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.errors import ConfigurationError
from jst_bridge.sandbox.platform import MARK, Platform
from jst_bridge.sandbox.trading import Trade, now
from jst_bridge.sandbox.traffic import Disturbances, TrafficSettings

_SHARE = click.FloatRange(0, 1)


@click.group("sandbox", invoke_without_command=True)
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the configuration there; else it is printed.")  # fmt: skip
@click.option("--sellers", type=click.IntRange(1, 1000), default=5, show_default=True, metavar="N",
              help="Sellers who have authorised the app.")  # fmt: skip
@click.option("--app-key", default="12345678", show_default=True, metavar="KEY", help="The app's key.")
@click.option("--name-server-port", type=click.IntRange(0, 65535), default=0, metavar="PORT",
              help="A port of your own, instead of a free one.")  # fmt: skip
@click.option("--gateway-port", type=click.IntRange(0, 65535), default=0, metavar="PORT",
              help="A port of your own, instead of a free one.")  # fmt: skip
@shared_options
@click.pass_context
def command(
    context: click.Context,
    *,
    write: Path | None,
    sellers: int,
    app_key: str,
    name_server_port: int,
    gateway_port: int,
) -> None:
    """A RocketMQ broker and an open platform on this machine, in memory, until Ctrl-C.

    Point the program at them with the configuration this writes or prints. Next to FILE goes FILE's name with
    .sellers.csv: the sellers, for `jst-bridge users import`. Messages flow for those that were added.
    """
    if context.invoked_subcommand is not None:
        return
    if not app_key.isdecimal():
        raise click.UsageError("--app-key has digits only")
    platform = Platform(
        app_key=app_key, sellers=sellers, name_server_port=name_server_port, gateway_port=gateway_port
    )
    with platform:
        text = platform.configuration("sqlite:///jst-bridge.db")
        if write is None:
            click.echo(text, nl=False)
            click.echo(f"# Sellers to add: {', '.join(platform.sessions)}")
        else:
            _keep(write, text)
            roster = write.with_name(f"{write.stem}.sellers.csv")
            _keep(roster, platform.roster())
            _explain(write, roster)
        _wait()


def _keep(file: Path, text: str) -> None:
    """Write a file for its owner only. A sandbox's own earlier one is replaced, nothing else."""
    try:
        if file.exists() and not _is_ours(file):
            raise ConfigurationError(
                f"{file} is there already, and no sandbox wrote it", remedy="name another file with --write"
            )
        file.touch(mode=0o600)
        file.chmod(0o600)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be written: {error.strerror}", remedy="name another file with --write"
        ) from None


def _is_ours(file: Path) -> bool:
    begin = file.read_text(encoding="utf-8", errors="replace")[:100]
    return begin.startswith((MARK, "nick,session\n"))


def _explain(file: Path, roster: Path) -> None:
    click.echo("The platform runs until Ctrl-C. In other terminals:\n")
    for words in (f"users import {roster}", "run", "sandbox traffic --rate 50", "status"):
        click.echo(f"  jst-bridge -c {file} {words}")


def _wait() -> None:
    """Until SIGTERM or SIGINT."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    over.wait()


@command.command("traffic")
@click.option("--rate", type=click.FloatRange(0, 100_000, min_open=True), default=50.0, show_default=True,
              metavar="N", help="Messages a second.")  # fmt: skip
@click.option("--burst", is_flag=True, help="As fast as the broker takes them, instead of at a rate.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after so many; else at Ctrl-C.")
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="Which story is told.")
@click.option(
    "--bad", type=_SHARE, default=0.0, metavar="SHARE", help="Bodies that cannot be read, e.g. 0.01."
)
@click.option("--duplicates", type=_SHARE, default=0.0, metavar="SHARE", help="Messages that come twice.")
@click.option(
    "--out-of-order", type=_SHARE, default=0.0, metavar="SHARE", help="Messages that are overtaken."
)
@click.option("--late", type=_SHARE, default=0.0, metavar="SHARE", help="Messages that come much later.")
@shared_options
@click.pass_context
def traffic(
    context: click.Context,
    *,
    rate: float,
    burst: bool,
    count: int | None,
    seed: int,
    bad: float,
    duplicates: float,
    out_of_order: float,
    late: float,
) -> None:
    """Let the open sellers of the sandbox that the configuration names sell, until Ctrl-C or --count.

    Orders are created, paid, shipped, tracked, signed, refunded, rated and closed. Says at the end what was sent.
    """
    settings = context.ensure_object(Invocation).settings()
    trade = Trade(
        settings,
        TrafficSettings(
            seed=seed,
            start=now(),
            spacing=3600,
            disturbances=Disturbances(bad, duplicates, out_of_order, late),
        ),
    )
    try:
        asyncio.run(trade.run(None if burst else rate, count))
    except KeyboardInterrupt:
        pass
    finally:
        told = trade.summary()
        if told["sent"]:
            output.write_json(told)


command.add_command(sandbox_fault.command)
