"""`jst-bridge messages`: what has landed."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.table import Table

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.cli.since import Since
from jst_bridge.ops.text import escaped
from jst_bridge.store import MessageRow


@click.command("messages")
@click.option("--seller", metavar="NICK", help="Only of this seller (user_nick).")
@click.option(
    "--topic", metavar="PATTERN", help="Only of this message type: whole, its last part, or with * and ?."
)
@click.option("--tid", metavar="ID", help="Only of this order.")
@click.option("--since", type=Since(), metavar="TIME", help="Published since: ISO (Beijing), or 2h, 3d.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many."
)
@click.option("--raw", is_flag=True, help="The bodies too, with nothing masked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@shared_options
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    seller: str | None,
    topic: str | None,
    tid: str | None,
    since: int | None,
    limit: int,
    raw: bool,
    as_json: bool,
) -> None:
    """List landed messages. Times are Beijing time; --json has epoch milliseconds."""
    with invocation.reader() as reader:
        rows = reader.messages(seller=seller, topic=pattern(topic), tid=tid, since=since, limit=limit)
    if as_json:
        for row in rows:
            output.write_json(as_record(row, raw=raw))
    elif not rows:
        click.echo("no message matches", err=True)
    elif raw:
        for row in rows:
            click.echo(
                escaped(f"{output.moment(row.published_at)}  {row.topic}  {row.seller}  {row.message_key}")
            )
            click.echo(f"  {body_text(row)}")
    else:
        output.console().print(_table(rows))


def pattern(topic: str | None) -> str | None:
    """A single word, TradeBuyerPay, is taken for the last part of a message type."""
    return topic if topic is None or any(sign in topic for sign in "_*?") else f"*_{topic}"


def as_record(row: MessageRow, *, raw: bool) -> dict[str, Any]:
    """The public columns of a message; ids are text, times epoch milliseconds."""
    record = {**msgspec.structs.asdict(row), "id": str(row.id)}
    del record["body"]
    return {**record, "body": row.body.decode("utf-8", "backslashreplace")} if raw else record


def body_text(row: MessageRow) -> str:
    """The body as it came, on one line."""
    return escaped(row.body.decode("utf-8", "backslashreplace"))


def _table(rows: list[MessageRow]) -> Table:
    columns = (
        output.Column("published", whole=True),
        output.Column("topic"),
        output.Column("seller"),
        output.Column("order or item", whole=True),
    )
    return output.table(
        columns,
        [
            (
                output.moment(row.published_at),
                output.short_topic(row.topic),
                row.seller or None,
                row.tid or row.refund_id or row.num_iid,
            )
            for row in rows
        ],
    )
