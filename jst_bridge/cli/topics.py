"""`jst-bridge topics`: the catalogue of message types, and those open for a seller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from jst_bridge.cli import output
from jst_bridge.cli.gateway import ask, gateway_option, json_option, nick_argument
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.messages import catalogue
from jst_bridge.ops.text import escaped

if TYPE_CHECKING:
    from jst_bridge.messages.catalogue import TopicInfo


@click.group("topics")
def command() -> None:
    """Look up message types (topics), and those that are open for a seller."""


@command.command("list", short_help="The catalogue: message type, title, family, fields.")
@click.argument("pattern", metavar="[PATTERN]", default="")
@click.option("--fields", is_flag=True, help="Also the fields of each, with their meaning.")
@json_option
@shared_options
def list_(*, pattern: str, fields: bool, as_json: bool) -> None:
    """List message types whose name, title or category has PATTERN in it (or, with * and ?, is like it).

    A type that is missing here may exist: Taobao adds some. Exit 1 when nothing matches.
    """
    found = catalogue.search(pattern)
    if as_json:
        for info in found:
            output.write_json({**msgspec.to_builtins(info), "family": info.family})
    elif fields:
        console = output.console()
        for info in found:
            console.print(output.heading(info.topic))
            console.print(output.facts([("title", info.title), ("family", info.family), ("page", info.doc)]))
            console.print(_fields(info))
            console.print()
    elif found:
        output.console().print(_table(found))
    if not found:
        click.echo(f"the catalogue has nothing like {escaped(pattern)}", err=True)
        click.get_current_context().exit(1)
    if not as_json and not fields:
        click.echo(f"{len(found):,} message types; --fields shows what is in them", err=True)


def _table(found: list[TopicInfo]) -> Any:
    columns = (
        output.Column("message type"),
        output.Column("title"),
        output.Column("family", whole=True),
        output.number("fields"),
    )
    return output.table(columns, [(info.topic, info.title, info.family, len(info.fields)) for info in found])


def _fields(info: TopicInfo) -> Any:
    columns = (
        output.Column("field"),
        output.Column("type", whole=True),
        output.Column("always", whole=True),
        output.Column("meaning"),
    )
    return output.table(
        columns,
        [
            (field.name, field.type or None, "yes" if field.required else "no", field.note or None)
            for field in info.fields
        ],
    )


@command.command("get")
@nick_argument
@gateway_option
@json_option
@shared_options
@click.pass_context
def get(context: click.Context, *, nick: str, gateway: str | None, as_json: bool) -> None:
    """Ask the platform which message types are open for the seller NICK. Exit 1 when none is."""
    from jst_bridge.top.errors import UnknownSeller

    invocation = context.ensure_object(Invocation)
    try:
        topics = ask(invocation, gateway, lambda jms: jms.get_topics(nick)).topics
    except UnknownSeller:
        topics = ()
    if as_json:
        output.write_json({"nick": nick, "topics": list(topics)})
    elif topics:
        known = [(topic, catalogue.lookup(topic)) for topic in topics]
        columns = (output.Column("message type"), output.Column("title"), output.Column("family", whole=True))
        rows = [
            (topic, info.title if info else None, info.family if info else catalogue.family_of(topic))
            for topic, info in known
        ]
        output.console().print(output.table(columns, rows))
    if not topics:
        click.echo(f"error: no message type is open for {escaped(nick)}", err=True)
        click.echo("  remedy: see whether the platform knows it: `jst-bridge users get NICK`", err=True)
        context.exit(1)
