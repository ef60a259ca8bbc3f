"""`jst-bridge peek`: the newest messages at the broker, without joining the group or moving an offset."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.cli.messages import pattern
from jst_bridge.operations import peeking
from jst_bridge.operations.peeking import Peek, Seen, Where
from jst_bridge.ops import logging
from jst_bridge.ops.text import escaped


@click.command("peek")
@click.option("--source", "name", metavar="NAME", help="Only at this source.")
@click.option(
    "--tag",
    metavar="PATTERN",
    help="Only with this tag (message type): whole, its last part, or with * and ?.",
)
@click.option("--seller", metavar="NICK", help="Only of this seller (user_nick).")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The newest so many."
)
@click.option("--topic", "where", flag_value="topic", default=True, help="Of the system topic (the default).")
@click.option("--retry", "where", flag_value="retry", help="Of what members of the group sent back.")
@click.option("--dead", "where", flag_value="dead", help="Of what the group gave up on: %DLQ%<group>.")
@click.option("--raw", is_flag=True, help="The bodies too, with nothing masked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@shared_options
@click.pass_context
def command(
    context: click.Context,
    *,
    name: str | None,
    tag: str | None,
    seller: str | None,
    limit: int,
    where: Where,
    raw: bool,
    as_json: bool,
) -> None:
    """Show the newest messages that the broker has, landed or not, in the order in which it stored them.

    The group is not joined and no offset moves. It looks at some 20,000 messages at most, and says how far back that
    was. Times are Beijing time; --json has epoch milliseconds. Exit 77 when the key may not read there.
    """
    invocation = context.ensure_object(Invocation)
    settings = invocation.settings()
    logging.configure("debug" if invocation.debug else "error", settings.run.log_format)
    from jst_bridge import app

    for group in app.source_groups(settings, name):
        found = asyncio.run(
            peeking.peek(
                group, settings.app.key, where, tag=pattern(tag), seller=seller, limit=limit
            )
        )  # fmt: skip
        if as_json:
            for seen in found.seen:
                output.write_json(_record(group.source, seen, raw=raw))
        elif raw:
            for seen in found.seen:
                _print_raw(seen)
        elif found.seen:
            output.console().print(_table(found))
        click.echo(_reach(found), err=True)


def _reach(found: Peek) -> str:
    """How far back the look went."""
    looked = f"{found.topic}: {len(found.seen):,} shown of {found.examined:,} messages looked at"
    if found.back_to is None:
        return f"{looked}, all that the broker has"
    return f"{looked}, back to {output.moment(found.back_to)}"


def _table(found: Peek) -> Any:
    columns = (
        output.Column("stored", whole=True),
        output.Column("topic"),
        output.Column("seller"),
        output.Column("order or item", whole=True),
    )
    return output.table(columns, [_row(seen) for seen in found.seen])


def _row(seen: Seen) -> tuple[str | None, ...]:
    time, message = output.moment(seen.stored.store_timestamp), seen.message
    if message is None:
        return time, output.short_topic(seen.stored.tag) or None, f"unreadable: {seen.reason}", None
    subject = message.tid or message.refund_id or message.num_iid
    return time, output.short_topic(message.topic), message.seller or None, subject


def _record(source: str, seen: Seen, *, raw: bool) -> dict[str, Any]:
    """Names as in `jst-bridge messages --json` where they mean the same; ids are text, times epoch milliseconds."""
    stored, message = seen.stored, seen.message
    record: dict[str, Any] = {
        "source": source,
        "system_topic": seen.queue.topic,
        "broker": seen.queue.broker,
        "queue_id": seen.queue.queue_id,
        "queue_offset": stored.queue_offset,
        "stored_at": stored.store_timestamp,
        "born_at": stored.born_timestamp,
        "transport_id": stored.offset_message_id,
        "origin_id": stored.origin_message_id,
        "origin_topic": stored.properties.get("RETRY_TOPIC") or stored.topic,
        "attempt": stored.reconsume_times,
        "tag": stored.tag,
        "keys": stored.keys,
        "reason": seen.reason or None,
        "detail": output.prose(seen.detail, raw=raw) or None,
    }
    if message is not None:
        record |= {
            "message_key": message.key,
            "topic": message.topic,
            "seller": message.seller,
            "user_id": message.user_id,
            "tid": message.tid,
            "oid": message.oid,
            "refund_id": message.refund_id,
            "num_iid": message.num_iid,
            "published_at": message.published_at,
            "published_from": message.published_from,
        }
    return {**record, "body": _body(seen)} if raw else record


def _body(seen: Seen) -> str:
    return seen.stored.body.decode("utf-8", "backslashreplace")


def _print_raw(seen: Seen) -> None:
    stored, message = seen.stored, seen.message
    what = (
        f"{message.topic}  {message.seller}  {message.key}"
        if message
        else f"{stored.tag}  unreadable: {seen.reason}"
    )
    time = output.moment(stored.store_timestamp)
    click.echo(escaped(f"{time}  {what}  {seen.queue}:{stored.queue_offset}"))
    click.echo(f"  {escaped(_body(seen))}")
