"""`jst-bridge run`: land what the sources deliver."""

from __future__ import annotations

import asyncio
import sys
import time

import click

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.errors import ConfigurationError
from jst_bridge.ops import logging, summary
from jst_bridge.ops.progress import Progress
from jst_bridge.ports import Landed


@click.command("run")
@click.option("--drain", is_flag=True, help="Stop, with exit 0, when all that waits at the start is landed.")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    envvar="JST_DRAIN_TIMEOUT",
    help="With --drain: give up after so long, with exit 75.",
)
@click.option(
    "--allow-mixed-subscriptions",
    is_flag=True,
    help="Join the group also when its members read other topics or tags.",
)
@shared_options
@click.pass_obj
def command(
    invocation: Invocation, *, drain: bool, drain_timeout: float, allow_mixed_subscriptions: bool
) -> None:
    """Land what the sources deliver in the store, until SIGTERM or Ctrl-C.

    The first signal finishes the landing in flight and commits; a second one quits at once. A summary goes to
    stdout at the end: a table on a terminal, one JSON object elsewhere.
    """
    settings = invocation.settings()
    if not settings.source:
        raise ConfigurationError(
            f"{settings.file or 'environment'}: source: there is none to run",
            remedy="add a [[source]] with type, name_servers and group",
        )
    logging.configure("debug" if invocation.debug else settings.run.log_level, settings.run.log_format)
    from jst_bridge import app

    total: Landed | None = None
    started = time.monotonic()
    progress = Progress()
    try:
        with progress:
            total = asyncio.run(
                app.run(
                    settings,
                    drain=drain,
                    drain_timeout=drain_timeout,
                    allow_mixed_subscriptions=allow_mixed_subscriptions,
                    report=progress,
                )
            )
    finally:
        total = total or progress.total()
        if total is not None:
            _summarise(total, time.monotonic() - started)


def _summarise(total: Landed, seconds: float) -> None:
    if sys.stdout.isatty():
        output.console().print(summary.table(total, seconds))
    else:
        output.write_json(summary.record(total, seconds))
