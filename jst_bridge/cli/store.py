"""`jst-bridge store`: care of the database: its size, its schema, what is old, a seller to forget, the state anew."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich.console import Console

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.cli.since import Since
from jst_bridge.errors import ConfigurationError, StoreError, StoreUnavailable
from jst_bridge.ops import logging
from jst_bridge.ops.text import escaped
from jst_bridge.store import Database, migrations
from jst_bridge.store.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from jst_bridge.settings import Settings
    from jst_bridge.store.inventory import Inventory, TableInfo
    from jst_bridge.store.purge import Purged
    from jst_bridge.store.rebuild import Difference, RebuildProgress, RebuildReport

_STEPS: Final = {
    "choose": "looking for what was touched",
    "orders": "orders",
    "search": "looking for refunds",
    "refunds": "refunds",
}

_FREE_TEXT: Final = frozenset({"seller_memo", "description"})

Say = Callable[[str], None]


@click.group("store")
def command() -> None:
    """Look after the store: sizes, schema, old messages, a seller to forget, the state tables."""


# --- looking --------------------------------------------------------------------------------------------


@command.command("info")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@shared_options
@click.pass_obj
def info(invocation: Invocation, *, as_json: bool) -> None:
    """Show rows, sizes, oldest and newest, per table. Days and times are Beijing's; --json has epoch ms."""
    from jst_bridge.store.inventory import inventory

    database = invocation.database()
    found = inventory(database)
    if as_json:
        output.write_json({"store": database.label, **msgspec.to_builtins(found)})
        return
    console = output.console()
    console.print(output.facts(_whole(database, found)))
    console.print()
    console.print(_tables(found.tables))
    if not all(table.counted for table in found.tables):
        click.echo("~ is an estimate of the server's: counting so many rows takes minutes", err=True)


def _whole(database: Database, found: Inventory) -> list[tuple[str, str]]:
    facts = [("store", database.label), ("schema", str(found.schema)), ("size", _size(found.bytes) or "-")]
    if found.free_bytes:
        facts.append(("free within", f"{_size(found.free_bytes)}, used before the file grows"))
    return facts


def _tables(tables: list[TableInfo]) -> Any:
    columns = (
        output.Column("table", whole=True),
        output.number("rows"),
        output.number("size"),
        output.Column("oldest", whole=True),
        output.Column("newest", whole=True),
        output.Column("by"),
    )
    return output.table(
        columns,
        [
            (
                table.name,
                f"{'' if table.counted else '~'}{table.rows:,}",
                _size(table.bytes),
                None if table.oldest is None else output.day(table.oldest),
                (output.moment(table.newest) or "-")[:16],  # to the minute
                table.column.removesuffix("_at") if table.column and table.newest is not None else None,
            )
            for table in tables
        ],
    )


def _size(size: float | None) -> str | None:
    if size is None:
        return None
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1000:
            return f"{size:,.1f} {unit}"
    return f"{size / 1024:,.1f} GiB"


# --- the schema -----------------------------------------------------------------------------------------


@command.command("migrate", short_help="Make the tables, or bring them up to date.")
@click.option("--print-sql", is_flag=True, help="Print the statements for an administrator; change nothing.")
@shared_options
@click.pass_obj
def migrate(invocation: Invocation, *, print_sql: bool) -> None:
    """Make the tables, or bring them to the schema of this program. Run it as often as you like."""
    database = invocation.database()
    with contextlib.closing(database):
        statements = _pending(database) if print_sql else database.migrate()
    if print_sql:
        for statement in statements:
            click.echo(f"{statement};")
    if not statements:
        click.echo(f"{escaped(database.label)} already has schema {migrations.newest()}", err=print_sql)
    elif not print_sql:
        click.echo(
            f"{escaped(database.label)} has schema {migrations.newest()} now: {len(statements):,} statements"
        )


def _pending(database: Database) -> list[str]:
    if isinstance(database, SqliteDatabase) and not database.path.exists():
        with contextlib.closing(sqlite3.connect(":memory:")) as nothing:
            return migrations.pending(nothing.cursor(), database.dialect, time.time_ns() // 1_000_000)
    return database.pending()


# --- retention ------------------------------------------------------------------------------------------


@command.command("prune", short_help="Delete old messages now, as `run` does from time to time.")
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@shared_options
@click.pass_obj
def prune(invocation: Invocation, *, dry_run: bool, as_json: bool) -> None:
    """Delete messages that landed longer ago than [store] keep_messages. `run` does it by itself.

    State stays. Interrupted, what is deleted is deleted. Exit 75 when another process prunes.
    """
    from jst_bridge.store.retention import count_prunable, horizon

    settings = _settings(invocation)
    keep = settings.store.keep_messages
    if keep is None:
        raise ConfigurationError(
            f'{settings.file or "environment"}: store.keep_messages: "forever" deletes nothing',
            remedy='write how long to keep messages, such as keep_messages = "30d"',
        )
    database = invocation.database()
    with contextlib.closing(database):
        _require_tables(database)
        before = horizon(database, keep)
        count = count_prunable(database, before) if dry_run else _prune(database, keep)
    if as_json:
        output.write_json({"before": before, "dry_run": dry_run, "messages": count})
    else:
        deed = "would be deleted" if dry_run else "deleted"
        click.echo(f"{count:,} messages that landed before {output.moment(before)} {deed}")


def _prune(database: Database, keep: timedelta) -> int:
    from jst_bridge.store.leases import new_holder
    from jst_bridge.store.retention import Pruning

    pruning = Pruning(database, keep, new_holder())
    other = pruning.begin()
    if other is not None:
        raise StoreUnavailable(
            f"another process prunes the store {database.label}: {other}",
            remedy="leave it to that one; should it have died, its lease ends within five minutes",
        )
    deleted = 0
    try:
        with _progress() as say:
            more = True
            while more:
                step = pruning.step()
                deleted += step.deleted
                more = step.more
                say(f"{deleted:,} messages deleted")
                time.sleep(step.pause)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {deleted:,} messages deleted so far", err=True)
        raise
    finally:
        with contextlib.suppress(StoreError):  # it runs out by itself
            pruning.end()
    return deleted


# --- a seller to forget ---------------------------------------------------------------------------------


@command.command("purge")
@click.option("--seller", required=True, metavar="NICK", help="The nick (user_nick), letter by letter.")
@click.option(
    "--before", type=Since(), metavar="TIME", help="Only what was published before: ISO (Beijing), or 30d."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@shared_options
@click.pass_context
def purge(context: click.Context, *, seller: str, before: int | None, yes: bool, as_json: bool) -> None:
    """Forget a seller: messages, state and dead letters. There is no way back.

    What still waits at the broker lands again, and so does what a seller goes on sending who is still authorised:
    end that first (`jst-bridge users delete NICK`). Backups and the logs of a database server are yours to clear.
    """
    _require_nick(seller)
    if not yes and not _is_asked():
        raise click.UsageError("nobody is there to be asked: say --yes")
    from jst_bridge.store.purge import purge as forget
    from jst_bridge.store.purge import survey

    invocation = context.ensure_object(Invocation)
    _settings(invocation)
    database = invocation.database()
    with contextlib.closing(database):
        _require_tables(database)
        database.open()
        if not yes:
            with _progress() as say:
                found = survey(database, seller, before, lambda count: say(f"{count.rows:,} rows found"))
            if not found.rows:
                click.echo(f"the store holds nothing of {escaped(seller)} to delete", err=True)
                return
            _show_purged(Console(stderr=True, highlight=False), found)
            if not click.confirm(f"Delete these rows of {escaped(seller)} for ever?", err=True):
                click.echo("nothing was deleted", err=True)
                context.exit(1)
        with _progress() as say:
            done = forget(database, seller, before, lambda count: say(f"{count.rows:,} rows deleted"))
    if as_json:
        output.write_json({"seller": seller, "before": before, **msgspec.to_builtins(done)})
    else:
        _show_purged(output.console(), done)
    if not done.erased:
        click.echo(
            "a process that reads the store keeps its write-ahead log from being emptied, and deleted bytes may be in"
            " there: run this again when nobody reads",
            err=True,
        )
    click.echo(
        "what still waits at the broker, or is sent while the seller is authorised, lands again", err=True
    )


def _is_asked() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def _require_nick(seller: str) -> None:
    try:
        stored = seller.encode().decode()
    except UnicodeEncodeError:
        stored = ""
    if not stored or "\0" in stored:
        raise click.BadParameter("this is no nick", param_hint="--seller")


def _show_purged(console: Console, purged: Purged) -> None:
    columns = [output.Column("table", whole=True), output.number("deleted")]
    if purged.rewritten:
        columns.append(output.number("folded again"))
    rows = [
        (table, count, purged.rewritten.get(table))[: len(columns)] for table, count in purged.deleted.items()
    ]
    console.print(output.table(columns, rows))


# --- the state anew -------------------------------------------------------------------------------------


@command.command("rebuild", short_help="Make the state tables anew from the messages.")
@click.option(
    "--since", type=Since(), metavar="TIME", help="Only what landed since touches: ISO (Beijing), or 2h, 3d."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@shared_options
@click.pass_obj
def rebuild(invocation: Invocation, *, since: int | None, as_json: bool) -> None:
    """Make the state tables anew from the messages, and say what differed. Bridges may go on landing.

    Exit 0 also when something differed: then it is repaired.
    """
    from jst_bridge.store.rebuild import rebuild as fold_again

    _settings(invocation)
    database = invocation.database()
    with contextlib.closing(database):
        _require_tables(database)
        with _progress() as say:
            report = fold_again(database, since=since, progress=lambda at: say(_stage(at)))
    report.differences = [_masked(difference) for difference in report.differences]
    if as_json:
        tables = {name: msgspec.structs.asdict(table) for name, table in report.tables.items()}
        differences = [difference._asdict() for difference in report.differences]
        whole = msgspec.structs.asdict(report)
        output.write_json({**whole, "tables": tables, "differences": differences})
    else:
        _show_report(output.console(), report)


def _stage(at: RebuildProgress) -> str:
    share = f" {min(at.done / at.of, 1):.0%}" if at.of else ""
    return f"{_STEPS[at.step]}{share}: {at.messages:,} messages read, {at.differed:,} rows differed"


def _show_report(console: Console, report: RebuildReport) -> None:
    console.print(
        output.table(
            (
                output.Column("table", whole=True),
                *(output.number(title) for title in ("checked", "changed", "added", "removed")),
            ),
            [
                (name, table.checked, table.changed, table.added, table.removed)
                for name, table in report.tables.items()
            ],
        )
    )
    if report.differences:
        columns = [output.Column(title) for title in ("row", "field", "was", "is")]
        rows = [(f"{d.table} {d.key}", d.field or "all of it", d.was, d.becomes) for d in report.differences]
        more = report.differed - len({(d.table, d.key) for d in report.differences})
        console.print()
        console.print(output.heading(f"What differed{' first' if more > 0 else ''}"))
        console.print(output.table(columns, rows))
    console.print()
    console.print(_verdict(report))
    if report.undecodable:
        click.echo(
            f"{report.undecodable:,} messages cannot be read by today's program; what they said before stays: "
            + escaped(", ".join(report.undecodable_keys)),
            err=True,
        )
    if report.refused:
        click.echo(
            f"{report.refused:,} rows were refused by the database and are as before: see above", err=True
        )


def _verdict(report: RebuildReport) -> str:
    read = f"{report.messages:,} messages read in {report.seconds:.1f} s"
    if not report.differed:
        return f"{read}: every row is what they say"
    return f"{read}: {report.differed:,} rows differed, and are repaired"


def _masked(difference: Difference) -> Difference:
    if difference.field not in _FREE_TEXT:
        return difference
    was, becomes = (
        None if text is None else output.prose(text, raw=False)
        for text in (difference.was, difference.becomes)
    )
    return difference._replace(was=was, becomes=becomes)


# --- what they share ------------------------------------------------------------------------------------


def _settings(invocation: Invocation) -> Settings:
    """Load them, and let warnings be seen."""
    settings = invocation.settings()
    logging.configure("debug" if invocation.debug else "warning", settings.run.log_format)
    return settings


def _require_tables(database: Database) -> None:
    """There is a store to look after: making one is not what was asked for."""
    if database.look() == 0:
        raise StoreError(
            f"the store {database.label} holds no tables of jst-bridge yet",
            remedy="start `jst-bridge run` once, or run `jst-bridge store migrate`: either makes them",
        )


@contextlib.contextmanager
def _progress() -> Iterator[Say]:
    """Shows the last thing said on one line of stderr while it lasts, where that is a terminal."""
    console = Console(stderr=True, highlight=False, markup=False)
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status("") as status:
            yield lambda text: status.update(escaped(text))
    else:
        yield lambda text: None
