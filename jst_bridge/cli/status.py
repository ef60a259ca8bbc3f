"""`jst-bridge status`: lag, gaps and what the store holds."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.errors import JstBridgeError
from jst_bridge.ops import logging
from jst_bridge.ops.text import escaped
from jst_bridge.settings import Settings
from jst_bridge.store import TOPICS_OF, GapRow, StoreCounts, open_reader

if TYPE_CHECKING:
    from jst_bridge.app import QueueLag, Status

_SHOWN = 20
"""Rows of a table for people at most; --json has more."""

_Section = tuple[str, tuple[output.Column, ...], list[tuple[object, ...]]]


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@shared_options
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """Show the lag of every queue, the gaps, and what the store holds.

    Exit 69 when a broker cannot be asked; what the store holds is shown all the same.
    """
    invocation = context.ensure_object(Invocation)
    settings = invocation.settings()
    logging.configure("debug" if invocation.debug else "error", settings.run.log_format)
    from jst_bridge import app

    status = asyncio.run(app.status(settings))
    counts, gaps = _held(settings)
    if as_json:
        output.write_json(_record(status, counts, gaps))
    else:
        _print(output.console(), status, counts, gaps)
    for problem in status.problems:
        click.echo(f"error: {escaped(str(problem))}", err=True)
        for line in problem.remedy.splitlines():
            click.echo(f"  remedy: {escaped(line)}", err=True)
    if status.problems:
        context.exit(status.problems[0].exit_code)


def _held(settings: Settings) -> tuple[StoreCounts | None, list[GapRow]]:
    """What the store holds; None when it cannot be read, which `app.status` has noted then."""
    try:
        with open_reader(*settings.store.login) as reader:
            return reader.counts(), reader.gaps()
    except JstBridgeError:
        return None, []


def _record(status: Status, counts: StoreCounts | None, gaps: list[GapRow]) -> dict[str, Any]:
    return {
        "queues": [{**dataclasses.asdict(queue), "lag": queue.lag} for queue in status.queues],
        "gaps": [{**msgspec.structs.asdict(gap), "id": str(gap.id)} for gap in gaps],
        "store": None if counts is None else msgspec.to_builtins(counts),
        "problems": [str(problem) for problem in status.problems],
    }


def _print(console: Console, status: Status, counts: StoreCounts | None, gaps: list[GapRow]) -> None:
    sections = [_queues(status), _gaps(gaps)]
    if counts is not None:
        console.print(output.facts(_store_facts(counts)))
        sections += _holdings(counts)
    for name, columns, rows in sections:
        if rows:
            console.print()
            console.print(output.heading(name))
            console.print(output.table(columns, rows[:_SHOWN]))
            if len(rows) > _SHOWN:
                console.print(f"and {len(rows) - _SHOWN:,} more: see --json")


def _queues(status: Status) -> _Section:
    columns = (
        output.Column("source"),
        output.Column("queue"),
        output.number("end"),
        output.number("committed"),
        output.number("position"),
        output.number("lag"),
    )
    rows: list[tuple[object, ...]] = [
        (_reader(q), f"{q.system_topic} {q.broker}:{q.queue_id}", q.end, q.committed, q.position, q.lag)
        for q in status.queues
    ]
    return f"Queues: {sum(queue.lag for queue in status.queues):,} messages wait", columns, rows


def _reader(queue: QueueLag) -> str:
    return f"{queue.source} {queue.instance}" if queue.instance else queue.source


def _gaps(gaps: list[GapRow]) -> _Section:
    columns = (
        output.Column("noted", whole=True),
        output.Column("queue"),
        output.Column("offsets"),
        output.Column("reason"),
    )
    rows: list[tuple[object, ...]] = [
        (
            output.moment(gap.noted_at),
            f"{gap.source} {gap.broker}:{gap.queue_id}",
            f"{gap.first_offset}-{gap.last_offset}",
            gap.reason,
        )
        for gap in reversed(gaps)
    ]
    return f"Gaps: {len(gaps):,}, skipped without being landed", columns, rows


def _store_facts(counts: StoreCounts) -> list[tuple[str, str]]:
    return [
        ("messages", f"{counts.messages:,}"),
        ("published", f"{output.moment(counts.oldest) or '-'} to {output.moment(counts.newest) or '-'}"),
        ("dead letters", f"{counts.dead_letters:,}"),
    ]


def _holdings(counts: StoreCounts) -> list[_Section]:
    column, number = output.Column, output.number
    topics = "Topics" if counts.messages <= TOPICS_OF else f"Topics of the newest {TOPICS_OF:,} messages"
    return [
        (
            "Sellers",
            (column("seller"), number("messages"), column("newest published", whole=True)),
            [(s.seller or None, s.messages, output.moment(s.last_published_at)) for s in counts.sellers],
        ),
        (topics, (column("topic"), number("messages")), list(counts.topics.items())),
        ("Dead letters", (column("reason"), number("dead letters")), list(counts.dead_reasons.items())),
    ]
