"""`jst-bridge users`: the sellers whose messages flow into the app's system topic."""

from __future__ import annotations

import csv
import difflib
import io
import os
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from jst_bridge.cli import output
from jst_bridge.cli.gateway import ask, gateway_option, json_option, nick_argument, rate_option, top_settings
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.cli.roster_import import import_
from jst_bridge.cli.tally import Tally
from jst_bridge.errors import JstBridgeError
from jst_bridge.messages import catalogue
from jst_bridge.onboarding import (
    LONGEST_SESSION,
    Added,
    Checked,
    fault_of_nick,
    fault_of_session,
    split_topics,
)
from jst_bridge.onboarding import add as add_seller
from jst_bridge.onboarding import check as check_sellers
from jst_bridge.onboarding import delete as delete_seller
from jst_bridge.ops.text import escaped
from jst_bridge.settings import span
from jst_bridge.store.sellers import Activity, SellerRow, Sellers
from jst_bridge.top import JmsClient, JmsSeller
from jst_bridge.top.parameters import Secret

_VARIABLE: Final = "JST_SESSION"
_CHECKED_AT_ONCE: Final = 50
"""Sellers whose check is written down in one transaction."""


@click.group("users")
def command() -> None:
    """Add, delete, check, import and list sellers: the users of your app, whose messages flow."""


command.add_command(import_)


# --- one seller -----------------------------------------------------------------------------------------


@command.command("add", short_help="Let a seller's messages flow.")
@click.option("--nick", metavar="NICK", help="Whose session it is: read back, and remembered in the store.")
@click.option(
    "--session-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"Where the session is; else ${_VARIABLE}, else you are asked.",
)
@click.option("--topics", metavar="A,B", help="At most 20 message types; else all that the app subscribes.")
@gateway_option
@json_option
@shared_options
@click.pass_obj
def add(
    invocation: Invocation,
    *,
    nick: str | None,
    session_file: Path | None,
    topics: str | None,
    gateway: str | None,
    as_json: bool,
) -> None:
    """Let the messages of a seller flow who has authorised the app; again: with these topics, and renewed.

    The session (access token) comes from a file, the environment or a hidden prompt, never from the command line. The
    platform does not say whose session it is: name the seller with --nick, to see and to remember what it knows.
    """
    if nick is not None and fault_of_nick(nick):
        raise click.BadParameter(fault_of_nick(nick), param_hint="--nick")
    wanted = _topics(topics)
    settings = invocation.settings()
    top_settings(settings, gateway)  # what is wrong with it is said before anybody is asked for a session
    session = _session(session_file)
    with closing(Sellers(invocation.database())) as sellers:
        added = ask(
            invocation,
            gateway,
            lambda jms: add_seller(jms, sellers, session, nick=nick or "", topics=wanted),
        )
    if as_json:
        output.write_json(_added_record(added, nick, wanted))
    else:
        output.console().print(output.facts(_added_facts(added, nick, wanted)))
    if added.doubt:
        click.echo(f"warning: {escaped(added.doubt)}", err=True)
    if not nick:
        click.echo("the store does not remember the seller: name it with --nick", err=True)
    elif not settings.source:
        click.echo("the configuration has no [[source]] yet: `jst-bridge run` needs one", err=True)


def _topics(text: str | None) -> tuple[str, ...] | None:
    """The message types asked for; doubts about them go to stderr."""
    if text is None:
        return None
    wanted = split_topics(text)
    if not wanted:
        raise click.BadParameter("names no message type; leave it out for all", param_hint="--topics")
    known = {info.topic for info in catalogue.search("")}
    for topic in wanted:
        if topic not in known:
            near = difflib.get_close_matches(topic, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            click.echo(f"warning: the catalogue has no {escaped(topic)}{hint}", err=True)
    return wanted


def _session(file: Path | None) -> Secret:
    """The session, from where the user has put it. Never quoted."""
    if file is not None:
        place = str(file)
        try:
            with file.open("rb") as stream:
                text = stream.read(LONGEST_SESSION + 8).decode("utf-8-sig").strip()
        except OSError as error:
            raise JstBridgeError(
                f"{file} cannot be read: {error.strerror}",
                remedy="name a file that holds the session and nothing else",
            ) from None
        except UnicodeDecodeError:
            text = "\0"
    elif os.environ.get(_VARIABLE):
        place, text = f"${_VARIABLE}", os.environ[_VARIABLE].strip()
    elif _is_asked():
        place, text = "what you typed", click.prompt("Session", hide_input=True, err=True).strip()
    else:
        raise click.UsageError(f"no session: give it with --session-file, in ${_VARIABLE}, or on a terminal")
    fault = fault_of_session(text)
    if fault:
        raise click.UsageError(f"{place} holds no session: {fault}")
    return Secret(text)


def _is_asked() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def _added_record(added: Added, nick: str | None, topics: tuple[str, ...] | None) -> dict[str, Any]:
    known = {} if added.seller is None else _record(added.seller)
    return {
        "nick": nick,
        **known,
        "topics": None if topics is None else list(topics),
        "remembered": added.remembered,
        "request_id": added.confirmation.request_id,
    }


def _added_facts(added: Added, nick: str | None, topics: tuple[str, ...] | None) -> list[tuple[str, str]]:
    facts = [
        ("added", nick or "the session's seller"),
        ("topics", ", ".join(topics or ()) or "all of the app"),
    ]
    return facts if added.seller is None else facts + _facts(added.seller)[1:]


def _record(seller: JmsSeller) -> dict[str, Any]:
    return {"nick": seller.nick, **seller.model_dump(mode="json", exclude={"nick", "request_id"})}


def _facts(seller: JmsSeller) -> list[tuple[str, str]]:
    valid = {True: "valid", False: "ended: no messages flow, let the seller authorise again"}
    moments = (("opened", seller.opened_at), ("renewed", seller.renewed_at))
    return [
        ("nick", seller.nick),
        ("user id", seller.user_id or "-"),
        ("authorisation", valid.get(bool(seller.is_valid)) or "-" if seller.is_valid is not None else "-"),
        *((name, f"{at:%Y-%m-%d %H:%M:%S} Beijing time" if at else "-") for name, at in moments),
    ]


@command.command("get")
@nick_argument
@gateway_option
@json_option
@shared_options
@click.pass_context
def get(context: click.Context, *, nick: str, gateway: str | None, as_json: bool) -> None:
    """Ask the platform what it knows of the seller NICK. Exit 1 when it knows nothing."""
    seller = ask(context.ensure_object(Invocation), gateway, lambda jms: jms.get_user(nick))
    if seller is None:
        click.echo(f"error: the platform does not know {escaped(nick)}", err=True)
        click.echo(
            "  remedy: check the nick, letter by letter, or add the seller: `jst-bridge users add`", err=True
        )
        context.exit(1)
    elif as_json:
        output.write_json(_record(seller))
    else:
        output.console().print(output.facts(_facts(seller)))


@command.command("delete")
@nick_argument
@gateway_option
@json_option
@shared_options
@click.pass_obj
def delete(invocation: Invocation, *, nick: str, gateway: str | None, as_json: bool) -> None:
    """Stop the messages of the seller NICK. What has landed stays; `jst-bridge store purge` forgets it."""
    with closing(Sellers(invocation.database())) as sellers:
        remembered = ask(invocation, gateway, lambda jms: delete_seller(jms, sellers, nick))
    if as_json:
        output.write_json({"nick": nick, "deleted": True, "was_remembered": remembered})
    else:
        click.echo(f"{escaped(nick)} is deleted: its messages stop")


# --- all of them ----------------------------------------------------------------------------------------


class Span(click.ParamType[timedelta]):
    """A length of time."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            return value if isinstance(value, timedelta) else span(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@command.command("list", short_help="Those remembered, and how long each has been silent.")
@click.option(
    "--silent", type=Span(), metavar="SPAN", help="Only those without a message for so long: 24h, 3d."
)
@click.option("--all", "everything", is_flag=True, help="Also those that were deleted.")
@json_option
@shared_options
@click.pass_obj
def list_(invocation: Invocation, *, silent: timedelta | None, everything: bool, as_json: bool) -> None:
    """List the sellers that were added here, with their newest message. The platform is not asked.

    Times are Beijing time; --json has epoch milliseconds.
    """
    now = time.time_ns() // 1_000_000
    with closing(Sellers(invocation.database())) as sellers:
        rows = sellers.all(deleted=everything)
        activity = sellers.activity(row.nick for row in rows)
    if silent is not None:
        since = now - silent // timedelta(milliseconds=1)
        rows = [row for row in rows if (activity[row.nick].published_at or row.added_at) <= since]
    if as_json:
        for row in rows:
            newest = activity[row.nick]
            output.write_json(
                {
                    **msgspec.to_builtins(row),
                    "last_published_at": newest.published_at,
                    "last_landed_at": newest.landed_at,
                    "silent_ms": None if newest.published_at is None else max(0, now - newest.published_at),
                }
            )
    elif rows:
        output.console().print(_sellers(rows, activity, now))
    else:
        click.echo("no seller is silent for so long" if silent else "no seller was added here", err=True)


def _sellers(rows: list[SellerRow], activity: dict[str, Activity], now: int) -> Any:
    columns = (
        output.Column("seller"),
        output.Column("user id", whole=True),
        output.Column("topics", whole=True),
        output.Column("added", whole=True),
        output.Column("last landed", whole=True),
        output.Column("silent", whole=True, right=True),
        output.Column("state"),
    )
    return output.table(
        columns,
        [
            (
                row.nick,
                row.user_id or None,
                str(len(row.topics)) if row.topics else "all",
                output.day(row.added_at),
                (output.moment(activity[row.nick].landed_at) or "never")[:16],
                _silence(activity[row.nick].published_at, now),
                _state(row),
            )
            for row in rows
        ],
    )


def _silence(published_at: int | None, now: int) -> str | None:
    """The time since the newest message, in its largest units."""
    if published_at is None:
        return None
    minutes = max(0, now - published_at) // 60_000
    days, hours = minutes // 1440, minutes % 1440 // 60
    return f"{days}d {hours}h" if days else f"{hours}h {minutes % 60}m"


def _state(row: SellerRow) -> str:
    if row.deleted_at is not None:
        return "deleted"
    return {True: "valid", False: "ended", None: "-"}[row.is_valid]


@command.command("check", short_help="Compare those remembered with what the platform says.")
@gateway_option
@rate_option
@json_option
@shared_options
@click.pass_context
def check(context: click.Context, *, gateway: str | None, rate: float, as_json: bool) -> None:
    """Ask the platform about every seller that was added here, and show where the two differ.

    Exit 1 when they do; when only some could not be asked, with the code of the first such error.
    """
    invocation = context.ensure_object(Invocation)
    with closing(Sellers(invocation.database())) as sellers:
        rows = sellers.all(deleted=True)
        sellers.require_usable()
        found = ask(invocation, gateway, lambda jms: _compared(jms, sellers, rows), rate=rate)
    drifted = [checked for checked in found if checked.drift]
    failed = [checked for checked in found if checked.error is not None]
    if as_json:
        for checked in found:
            output.write_json(
                {
                    "nick": checked.row.nick,
                    "is_valid": checked.is_valid,
                    "drift": list(checked.drift),
                    "error": None if checked.error is None else str(checked.error),
                }
            )
    elif drifted:
        columns = (output.Column("seller"), output.Column("what the platform says"))
        lines = [(checked.row.nick, "; ".join(checked.drift)) for checked in drifted]
        output.console().print(output.table(columns, lines))
    for checked in failed:
        click.echo(
            f"error: {escaped(checked.row.nick)} could not be asked for: {escaped(str(checked.error))}",
            err=True,
        )
    if failed and failed[0].error is not None and failed[0].error.remedy:
        click.echo(f"  remedy: {escaped(failed[0].error.remedy)}", err=True)
    click.echo(
        f"{len(found):,} sellers checked, {len(drifted):,} differ, {len(failed):,} could not be asked",
        err=True,
    )
    if drifted:
        context.exit(1)
    if failed and failed[0].error is not None:
        context.exit(failed[0].error.exit_code)


async def _compared(jms: JmsClient, sellers: Sellers, rows: list[SellerRow]) -> list[Checked]:
    found: list[Checked] = []
    written = 0

    def write() -> None:
        nonlocal written
        fresh = [checked for checked in found[written:] if checked.error is None]
        sellers.mark_checked((checked.row.nick, checked.is_valid) for checked in fresh)
        written = len(found)

    with Tally(len(rows), "sellers checked", "differ") as tally:
        try:
            async for checked in check_sellers(jms, rows):
                found.append(checked)
                tally.step(bad=bool(checked.drift))
                if len(found) - written >= _CHECKED_AT_ONCE:
                    write()
        finally:
            write()
    return found


@command.command("export", short_help="Those remembered, as CSV or JSON lines.")
@click.option("--all", "everything", is_flag=True, help="Also those that were deleted.")
@json_option
@shared_options
@click.pass_obj
def export(invocation: Invocation, *, everything: bool, as_json: bool) -> None:
    """Write the sellers that were added here as CSV, with an empty column for sessions: `users import` reads it."""
    with closing(Sellers(invocation.database())) as sellers:
        rows = sellers.all(deleted=everything)
    if as_json:
        for row in rows:
            output.write_json(msgspec.to_builtins(row))
    else:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ("nick", "session", "topics", "group", "user_id", "added_at", "deleted_at", "is_valid")
        )
        for row in rows:
            topics = " ".join(row.topics)
            valid = {True: "true", False: "false", None: ""}[row.is_valid]
            moments = (output.moment(row.added_at), output.moment(row.deleted_at) or "")
            writer.writerow((row.nick, "", topics, row.seller_group, row.user_id, *moments, valid))
        click.echo(text.getvalue(), nl=False)
    click.echo(f"{len(rows):,} sellers", err=True)
