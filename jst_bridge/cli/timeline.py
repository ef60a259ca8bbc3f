"""`jst-bridge timeline`: what happened to one order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.cli.messages import as_record, body_text
from jst_bridge.cli.narrative import Narrator
from jst_bridge.ops.text import escaped
from jst_bridge.store import MessageRow, Timeline, TradeRow, open_reader

_FREE_TEXT = ("seller_memo", "description")


@click.command("timeline")
@click.argument("tid")
@click.option("--raw", is_flag=True, help="The bodies too, with nothing masked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@shared_options
@click.pass_context
def command(context: click.Context, tid: str, *, raw: bool, as_json: bool) -> None:
    """Show what happened to the order TID: trade, lines, refunds, logistics, and every event in time order.

    Times are Beijing time; --json has epoch milliseconds. Exit 1 when nothing landed for the order.
    """
    settings = context.ensure_object(Invocation).settings()
    with open_reader(*settings.store.login) as reader:
        timeline = reader.timeline(tid)
    if not timeline.events and timeline.trade is None:
        click.echo(f"error: nothing has landed for order {escaped(tid)}", err=True)
        context.exit(1)
    if as_json:
        output.write_json(_record(timeline, raw=raw))
    else:
        show(output.console(), timeline, settings.app.key, raw=raw)


def show(console: Console, timeline: Timeline, app_key: str, *, raw: bool = False) -> None:
    """Print it for people."""
    _print(console, timeline, Narrator(app_key, raw=raw), raw=raw)


def _record(timeline: Timeline, *, raw: bool) -> dict[str, Any]:
    def values(row: msgspec.Struct) -> dict[str, Any]:
        record = msgspec.structs.asdict(row)
        return record | {name: output.prose(record[name], raw=raw) for name in _FREE_TEXT if record.get(name)}

    return {
        "tid": timeline.tid,
        "trade": None if timeline.trade is None else values(timeline.trade),
        "lines": [values(line) for line in timeline.lines],
        "refunds": [values(refund) for refund in timeline.refunds],
        "traces": [values(trace) for trace in timeline.traces],
        "events": [as_record(event, raw=raw) for event in timeline.events],
    }


def _print(console: Console, timeline: Timeline, narrator: Narrator, *, raw: bool) -> None:
    console.print(output.heading(f"Order {timeline.tid}"))
    if timeline.trade is not None:
        console.print(output.facts(_trade_facts(timeline.trade, raw=raw)))
    for name, columns, rows in _sections(timeline, raw=raw):
        if rows:
            console.print()
            console.print(output.heading(name))
            console.print(output.table(columns, rows))
    for date, events in groupby(timeline.events, key=lambda event: output.day(event.published_at)):
        console.print()
        console.print(output.heading(date))
        console.print(_events(events, narrator, raw=raw))


def _trade_facts(trade: TradeRow, *, raw: bool) -> list[tuple[str, str]]:
    buyer = " ".join(part for part in (trade.buyer_nick, trade.buyer_open_uid) if part)
    memo = output.prose(trade.seller_memo, raw=raw) if trade.seller_memo else ""
    flag = f"flag {trade.seller_flag}" if trade.seller_flag else ""
    payment = f"{trade.payment} yuan" if trade.payment is not None else ""
    postage = f"postage {trade.post_fee}" if trade.post_fee is not None else ""
    state = f"{output.short_topic(trade.topic)}, {output.moment(trade.published_at)}"
    facts = [
        ("status", f"{trade.status} ({state})" if trade.status else state),
        ("seller", trade.seller or trade.user_id),
        ("buyer", buyer),
        ("payment", ", ".join(part for part in (payment, postage) if part)),
        ("type", trade.type or ""),
        ("memo", " ".join(part for part in (flag, memo) if part)),
    ]
    return [(name, value) for name, value in facts if value]


def _sections(
    timeline: Timeline, *, raw: bool
) -> list[tuple[str, tuple[output.Column, ...], list[tuple[object, ...]]]]:
    column, whole = output.Column, True
    return [
        (
            "Lines",
            (column("line", whole), column("status"), column("payment", whole, right=True)),
            [
                (line.oid, line.status or output.short_topic(line.topic), line.payment)
                for line in timeline.lines
            ],
        ),
        (
            "Refunds",
            (
                column("refund", whole),
                column("line"),
                column("last event"),
                column("amount", whole, right=True),
            ),
            [(r.refund_id, r.oid, output.short_topic(r.topic), r.refund_fee) for r in timeline.refunds],
        ),
        (
            "Logistics",
            (column("time", whole), column("waybill"), column("what")),
            [
                (
                    output.moment(trace.traced_at or trace.published_at),
                    " ".join(part for part in (trace.company_name, trace.out_sid) if part) or None,
                    ": ".join(
                        part
                        for part in (trace.action, output.prose(trace.description or "", raw=raw))
                        if part
                    ),
                )
                for trace in timeline.traces
            ],
        ),
    ]


def _events(events: Iterable[MessageRow], narrator: Narrator, *, raw: bool) -> Table:
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for event in events:
        grid.add_row(Text(output.time_of_day(event.published_at)), Text(escaped(narrator.tell(event))))
        if raw:
            grid.add_row(Text(), Text(body_text(event), style="dim"))
    return grid
