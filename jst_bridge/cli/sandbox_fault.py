"""`jst-bridge sandbox fault`: make the running sandbox fail, to see what the program does about it."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal, cast

import click
from click.core import ParameterSource

from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.ops.text import escaped
from jst_bridge.sandbox.rocketmq.control import REQUESTS, Armament, Order, Report
from jst_bridge.sandbox.rocketmq.faults import KINDS
from jst_bridge.sandbox.sabotage import give

_DEEDS: Final = ("outage", "cut", "report", "clear")
_TAKES: Final = {
    "seconds": {"delay", "outage"},
    "code": {"refuse"},
    "back": {"redeliver"},
    "acted": {"drop", "silence", "refuse"},
    "empty": {"no-route"},
    "server": {"outage"},
    **{name: set(KINDS) for name in ("request", "topic", "times", "every")},
}
"""Option -> the kinds that it means something for."""


@click.command("fault")
@click.argument("kind", type=click.Choice([*KINDS, *_DEEDS]), metavar="KIND")
@click.option("--request", type=click.Choice(list(REQUESTS)),
              help="Which requests are struck; else all of them.")  # fmt: skip
@click.option("--topic", metavar="TOPIC", help="Only requests about this topic.")
@click.option("--times", type=click.IntRange(min=0), default=1, show_default=True, metavar="N",
              help="How often it strikes; 0: until `fault clear`.")  # fmt: skip
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Only each Nth of the requests that meet it.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, 600), metavar="S",
              help="delay, outage: how long. Default 1 and 5.")  # fmt: skip
@click.option("--code", type=int, metavar="CODE",
              help="refuse: the answer, such as 2 busy (the default), 16 no permission, 215 flow control.")  # fmt: skip
@click.option("--back", type=click.IntRange(min=1), metavar="N",
              help="redeliver: from how many messages before. Default 1.")  # fmt: skip
@click.option("--acted", is_flag=True, help="drop, silence, refuse: the work was done all the same.")
@click.option("--empty", is_flag=True, help="no-route: the topic is known, without queues.")
@click.option("--server", type=click.Choice(["broker", "name-server"]),
              help="outage: of which. Default broker.")  # fmt: skip
@shared_options
@click.pass_context
def command(context: click.Context, /, *, kind: str, times: int, every: int, **options: Any) -> None:
    """Make the running sandbox that the configuration names fail, and say which faults wait.

    \b
    drop           cut the connection instead of an answer
    silence        never answer
    delay          answer later
    garbage        answer bytes that are no frame
    refuse         answer an error
    lose           answer success, and do nothing
    redeliver      answer a pull from earlier messages
    reorder        answer a pull in reverse order
    duplicate      store what is sent twice
    no-route       the name server does not know the topic
    binary-header  answer with the other form of the header
    outage         a server is gone for a while
    cut            cut all connections now
    report         only say which faults wait
    clear          forget them all
    """
    for name, kinds in _TAKES.items():
        if kind not in kinds and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} means nothing for {kind}")
    order = _order(kind, times, every, options)
    report = asyncio.run(give(context.ensure_object(Invocation).settings(), order))
    if order.do == "outage":
        click.echo(f"The {order.server.replace('-', ' ')} is gone for {order.seconds:g} s.")
    elif order.do == "cut":
        click.echo("All connections are cut.")
    for line in _lines(report):
        click.echo(line)


def _order(kind: str, times: int, every: int, options: dict[str, Any]) -> Order:
    seconds = options["seconds"]
    if kind in _DEEDS:
        server: Literal["broker", "name-server"] = options["server"] or "broker"
        deed = cast("Literal['report', 'clear', 'cut', 'outage']", kind)
        return Order(do=deed, server=server, seconds=5.0 if seconds is None else seconds)
    fields: dict[str, Any] = {}
    if kind == "delay":
        fields["seconds"] = 1.0 if seconds is None else seconds
    if kind == "refuse":
        fields["code"] = 2 if options["code"] is None else options["code"]
    if options["back"] is not None:
        fields["back"] = options["back"]
    fields |= {name: True for name in ("acted", "empty") if options[name]}
    return Order(
        do="arm", kind=kind, fields=fields, request=options["request"] or "", topic=options["topic"],
        times=times or None, every=every,
    )  # fmt: skip


def _lines(report: Report) -> list[str]:
    waiting = [_line(armament) for armament in report.armed] or ["No fault waits."]
    return [*waiting, f"Struck so far: {report.struck:,}."]


def _line(armament: Armament) -> str:
    kind = f"{armament.kind} {_details(armament.fields)}".rstrip()
    whom = armament.request or "every request"
    if armament.topic:
        whom += f" of {armament.topic}"
    if armament.every > 1:
        whom += f", 1 in {armament.every:,}"
    often = _often(armament.left)
    return escaped(f"{kind}: {whom}, {often}")


def _details(fields: dict[str, Any]) -> str:
    told = [name if value is True else f"{name}={value}" for name, value in fields.items()
            if name != "remark" and value is not False]  # fmt: skip
    return ", ".join(told)


def _often(left: int | None) -> str:
    if left is None:
        return "until it is cleared"
    return "once more" if left == 1 else f"{left:,} times more"
