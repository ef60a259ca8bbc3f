"""`jst-bridge consumers`: who reads in the group, and what."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import click
from rich.console import Console

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.operations import SourceGroup, members
from jst_bridge.operations.members import MembersView, MemberView
from jst_bridge.ops import logging
from jst_bridge.rocketmq import MessageQueue


@click.command("consumers")
@click.option("--source", "name", metavar="NAME", help="Only of this source.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, one line a source.")
@shared_options
@click.pass_context
def command(context: click.Context, *, name: str | None, as_json: bool) -> None:
    """List the members of the consumer group on every broker: bridges, and clients of any other kind.

    Queues are what the member itself says it reads; (worked out) where it does not answer. A group without members
    is no error.
    """
    invocation = context.ensure_object(Invocation)
    settings = invocation.settings()
    logging.configure("debug" if invocation.debug else "error", settings.run.log_format)
    from jst_bridge import app

    console = output.console()
    for number, group in enumerate(app.source_groups(settings, name)):
        view = asyncio.run(members.members(group))
        if as_json:
            output.write_json(_record(view))
            continue
        if number:
            console.print()
        _print(console, group, view)


def _record(view: MembersView) -> dict[str, Any]:
    return {
        "source": view.source,
        "group": view.group,
        "online": view.mode is not None,
        "mode": view.mode,
        "subscriptions": view.subscriptions,
        "members": [
            {
                **dataclasses.asdict(one.member),
                "here": one.here,
                "brokers": list(one.brokers),
                "queues": [str(queue) for queue in one.queues],
                "queues_from": "member" if one.told else "allocation",
            }
            for one in view.members
        ],
    }


def _print(console: Console, group: SourceGroup, view: MembersView) -> None:
    if view.mode is None:
        console.print(
            output.heading(f"Group {view.group} of source {view.source} is offline: nobody reads in it")
        )
        return
    count = len(view.members)
    console.print(
        output.heading(
            f"Group {view.group} of source {view.source}: {count} member{'s' * (count != 1)}, {view.mode}"
        )
    )
    console.print(output.facts((topic, " or ".join(read)) for topic, read in view.subscriptions.items()))
    columns = (
        output.Column("member"),
        output.Column("client"),
        output.Column("where"),
        output.Column("queues"),
    )
    console.print(output.table(columns, [_row(one, group) for one in view.members]))


def _row(one: MemberView, group: SourceGroup) -> tuple[str, ...]:
    member = one.member
    queues = "; ".join(_shown(one.queues, group)) or "none"
    return (
        member.client_id,
        f"{member.language} {member.version}",
        f"{member.address}{', this host' if one.here else ''}",
        queues if one.told else f"{queues} (worked out)",
    )


def _shown(queues: Sequence[MessageQueue], group: SourceGroup) -> Iterable[str]:
    """`broker-a:0-3`, and the same of the retry topic."""
    ordered = sorted(queues, key=lambda queue: (queue.topic.startswith("%RETRY%"), queue))
    for (topic, broker), some in groupby(ordered, key=lambda queue: queue[:2]):
        name = (
            ""
            if topic in group.settings.subscriptions
            else "retry "
            if topic.startswith("%RETRY%")
            else f"{topic} "
        )
        yield f"{name}{broker}:{_ranges([queue.queue_id for queue in some])}"


def _ranges(numbers: Sequence[int]) -> str:
    """0-3,7 of 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
