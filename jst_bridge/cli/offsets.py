"""`jst-bridge offsets`: where the group is on each queue, and moving it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import click
from rich.console import Console

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.cli.since import Since
from jst_bridge.errors import JstBridgeError
from jst_bridge.operations import SourceGroup, offsets
from jst_bridge.operations.offsets import Move, QueueOffsets, Target
from jst_bridge.ops import logging
from jst_bridge.ops.text import escaped
from jst_bridge.ports import QueueKey
from jst_bridge.settings import Settings


@click.group("offsets")
def command() -> None:
    """Show where a consumer group is on each queue, and move it."""


# --- looking --------------------------------------------------------------------------------------------


@command.command("show", short_help="Every queue: its ends, what is committed, what is landed.")
@click.option("--source", "name", metavar="NAME", help="Only this source.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, one line a queue.")
@shared_options
@click.pass_context
def show(context: click.Context, *, name: str | None, as_json: bool) -> None:
    """Show every queue of the group, its retry topic's too. Nothing is joined or moved.

    first and end are the oldest and the next offset the broker has, committed is the group's, position the store's.
    Times are Beijing time; --json has epoch milliseconds. In broadcasting there are positions only. Exit 69 when a
    broker cannot be asked, and the store's code when only that one cannot.
    """
    settings = _settings(context)
    from jst_bridge import app

    positions, problem = _positions(settings)
    console = output.console()
    for group in app.source_groups(settings, name):
        found = asyncio.run(offsets.look(group, positions))
        if as_json:
            for queue in found:
                output.write_json(_record(group, queue))
        else:
            _print(console, group, found)
    if problem is not None:
        click.echo(f"error: {escaped(str(problem))}", err=True)
        click.echo(f"  remedy: {escaped(problem.remedy)}", err=True)
        context.exit(problem.exit_code)


def _positions(settings: Settings) -> tuple[dict[QueueKey, int], JstBridgeError | None]:
    """What the store holds; nothing, and why, when it cannot be read."""
    from jst_bridge import app

    try:
        return app.positions(settings, missing_ok=True), None
    except JstBridgeError as error:
        return {}, error


def _record(group: SourceGroup, at: QueueOffsets) -> dict[str, Any]:
    return {
        **_whose(group),
        **_place(at),
        "first": at.minimum,
        "end": at.end,
        "committed": at.committed,
        "position": at.position,
        "lag": at.lag,
        "committed_at": at.committed_at,
    }


def _whose(group: SourceGroup) -> dict[str, Any]:
    whose = {"source": group.source, "group": group.name, "mode": group.settings.mode}
    return {**whose, "instance": group.instance} if group.broadcasting else whose


def _place(at: QueueOffsets) -> dict[str, Any]:
    return {
        "system_topic": at.queue.topic,
        "broker": at.queue.broker,
        "queue_id": at.queue.queue_id,
    }


def _print(console: Console, group: SourceGroup, found: Sequence[QueueOffsets]) -> None:
    columns = [output.Column("queue"), *map(output.number, ("first", "end"))]
    if not group.broadcasting:
        columns.append(output.number("committed"))
    columns += [output.number("position"), output.number("lag")]
    if not group.broadcasting:
        columns.append(output.Column("last committed was stored"))
    for topic, queues in groupby(found, key=lambda at: at.queue.topic):
        rows = [_row(at)[: len(columns)] if not group.broadcasting else _broadcast_row(at) for at in queues]
        console.print(output.heading(f"{topic}, {_named(group)}"))
        console.print(output.table(columns, rows))
        console.print()
    console.print(f"{sum(at.lag for at in found):,} messages wait")


def _named(group: SourceGroup) -> str:
    instance = f", instance {group.instance}" if group.broadcasting else ""
    return f"group {group.name}{instance}, source {group.source}"


def _row(at: QueueOffsets) -> tuple[object, ...]:
    queue = f"{at.queue.broker}:{at.queue.queue_id}"
    return queue, at.minimum, at.end, at.committed, at.position, at.lag, output.moment(at.committed_at)


def _broadcast_row(at: QueueOffsets) -> tuple[object, ...]:
    return f"{at.queue.broker}:{at.queue.queue_id}", at.minimum, at.end, at.position, at.lag


# --- moving ---------------------------------------------------------------------------------------------


class _To(click.ParamType[Target]):
    """first, last, store, an offset, or a time as everywhere."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        if isinstance(value, Target):
            return value
        if value in ("first", "last", "store"):
            return Target(value)
        if value.isascii() and value.isdigit():
            if len(value) > 18:
                self.fail(f"{value} is too large for an offset", param, ctx)
            return Target("offset", int(value))
        try:
            return Target("time", Since().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(
                f"{value!r} is none of first, last, store, an offset, an ISO time (2026-01-31T08:00) and a span (2h)",
                param,
                ctx,
            )


@command.command("reset", short_help="Move the group to other offsets.")
@click.option(
    "--to",
    "target",
    type=_To(),
    required=True,
    metavar="first|last|store|TIME|OFFSET",
    help="TIME is when messages were stored: ISO (Beijing), or 2h, 3d.",
)
@click.option("--source", "name", metavar="NAME", help="Of this source; needed when there are several.")
@click.option(
    "--queue",
    "queues",
    metavar="BROKER:ID",
    multiple=True,
    help="Only this queue of the system topic (may be repeated); TOPIC@BROKER:ID of the retry topic.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, one line a queue.")
@shared_options
@click.pass_context
def reset(
    context: click.Context,
    *,
    target: Target,
    name: str | None,
    queues: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Move the group's committed offsets, and the store's positions with them. Its members have to be stopped first.

    What comes again is absorbed by its keys; what is skipped does not land. `--to store` moves each queue to where
    this store is: the remedy after restoring it from a copy. A queue the store knows nothing of begins at its oldest
    message. Exit 75 when somebody reads in the group: nothing is moved then.
    """
    if not (yes or dry_run or _is_asked()):
        raise click.UsageError("nobody is there to be asked: say --yes, or look with --dry-run")
    settings = _settings(context)
    from jst_bridge import app

    group = _the_one(app.source_groups(settings, name))
    if group.broadcasting and target.kind == "store":
        raise click.UsageError(
            "in broadcasting the store's positions are the only ones: there is nothing to move"
        )
    positions = app.positions(settings, missing_ok=target.kind != "store")
    moves = asyncio.run(offsets.plan(group, target, positions, queues))
    if not as_json:
        _print_moves(output.console(), group, moves)
    if dry_run:
        _tell(group, moves, moved=False, as_json=as_json)
        return
    if not any(move.needed for move in moves):
        _tell(group, moves, moved=False, as_json=as_json)
        click.echo("nothing to move: the group is there already", err=True)
        return
    asyncio.run(offsets.require_offline(group))
    if not yes and not click.confirm(f"Move group {escaped(group.name)} so?", err=True):
        click.echo("nothing was moved", err=True)
        context.exit(1)
    made, failures = asyncio.run(app.move_offsets(settings, group, moves))
    _tell(group, made, moved=True, as_json=as_json)
    click.echo(f"{len(made)} of {len(moves)} queues are moved", err=True)
    for failure in failures:
        click.echo(f"error: {escaped(str(failure))}", err=True)
        click.echo(f"  remedy: {escaped(failure.remedy or 'run this again')}", err=True)
    if failures:
        context.exit(failures[0].exit_code)


def _is_asked() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def _settings(context: click.Context) -> Settings:
    invocation = context.ensure_object(Invocation)
    settings = invocation.settings()
    logging.configure("debug" if invocation.debug else "error", settings.run.log_format)
    return settings


def _the_one(groups: Sequence[SourceGroup]) -> SourceGroup:
    if len(groups) > 1:
        names = ", ".join(group.source for group in groups)
        raise click.UsageError(f"say which source with --source: {names}")
    return groups[0]


def _print_moves(console: Console, group: SourceGroup, moves: Sequence[Move]) -> None:
    columns = [output.Column("queue"), *map(output.number, ("from", "to", "come again", "skipped"))]
    for topic, some in groupby(moves, key=lambda move: move.queue.topic):
        rows = [
            (f"{move.queue.broker}:{move.queue.queue_id}", move.at.next, move.to, move.again, move.skipped)
            for move in some
        ]
        console.print(output.heading(f"{topic}, {_named(group)}"))
        console.print(output.table(columns, rows))
        console.print()
    console.print(
        f"{sum(move.again for move in moves):,} messages come again, "
        f"{sum(move.skipped for move in moves):,} are skipped"
    )


def _tell(group: SourceGroup, moves: Sequence[Move], *, moved: bool, as_json: bool) -> None:
    if not as_json:
        return
    for move in moves:
        output.write_json(
            {
                **_whose(group),
                **_place(move.at),
                "from": move.at.next,
                "to": move.to,
                "again": move.again,
                "skipped": move.skipped,
                "moved": moved,
            }
        )
