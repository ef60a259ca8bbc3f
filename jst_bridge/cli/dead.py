"""`jst-bridge dead`: messages given up on, to be looked at, replayed, dropped or taken elsewhere."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from jst_bridge.cli import body, output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.cli.since import Since
from jst_bridge.errors import JstBridgeError
from jst_bridge.messages import REASONS, Decoder
from jst_bridge.ops import logging
from jst_bridge.ops.text import escaped, short
from jst_bridge.ports import Delivery, Message
from jst_bridge.store.dead_letters import (
    DeadLetters,
    Fate,
    LetterRow,
    Replay,
    Result,
    Selection,
    WholeLetter,
    drop,
)

_DETAIL: Final = 120
"""Characters of a detail in a list; `show` has the whole."""
_NOTE: Final = 54
"""Characters behind id and fate on a line of 80."""
_MEANINGS: Final = {
    **REASONS,
    "store_refused": "the message was read, but the database refused its values",
    "decode_failed": "decoding failed in a way it must not: a defect of the program that tried",
}
_REPLAYED: Final = frozenset({Fate.LANDED, Fate.HELD_ALREADY, Fate.REPLAYED_BEFORE, Fate.READABLE})
_DROPPED: Final = frozenset({Fate.DROPPED, Fate.DROPPED_BEFORE})

F = TypeVar("F", bound=Callable[..., Any])


@click.group("dead")
def command() -> None:
    """List, show, replay, drop and export dead letters: messages that could not be read or stored."""


def _reason_option(function: F) -> F:
    return click.option("--reason", metavar="WORD", help="Only those with this reason, such as not_json.")(
        function
    )


def _since_option(function: F) -> F:
    return click.option(
        "--since", type=Since(), metavar="TIME", help="Only those dead since: ISO (Beijing), or 2h, 3d."
    )(function)


def _json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")(function)


_number = click.IntRange(1, 2**63 - 1)


# --- looking --------------------------------------------------------------------------------------------


@command.command("list", short_help="The newest, one row each.")
@_reason_option
@_since_option
@click.option("--all", "everything", is_flag=True, help="Also those replayed or dropped.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many."
)
@_json_option
@shared_options
@click.pass_obj
def list_(
    invocation: Invocation,
    *,
    reason: str | None,
    since: int | None,
    everything: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters, the newest first. Times are Beijing time; --json has epoch milliseconds."""
    selection = Selection(reason, since, everything)
    with DeadLetters(invocation.database()) as letters:
        rows = letters.newest(selection, limit)
        total = letters.count(selection) if len(rows) == limit else len(rows)
    if as_json:
        for row in rows:
            output.write_json(_record(row))
    elif rows:
        output.console().print(_table(rows, everything=everything))
    else:
        click.echo("no dead letters", err=True)
    if total > len(rows):
        click.echo(f"and {total - len(rows):,} older ones: see --limit", err=True)


def _table(rows: Sequence[LetterRow], *, everything: bool) -> Any:
    columns = [
        output.Column("id", whole=True, right=True),
        output.Column("dead since", whole=True),
        output.Column("from"),
        output.Column("what is wrong"),
    ]
    if everything:
        columns.append(output.Column("outcome", whole=True))
    return output.table(
        columns,
        [
            (
                str(row.id),
                output.moment(row.dead_at),
                f"{row.source} {output.short_topic(row.tag)}".strip(),
                f"{row.reason}: {short(output.prose(row.detail, raw=False), _DETAIL)}",
                row.outcome,
            )[: len(columns)]
            for row in rows
        ],
    )


def _record(row: LetterRow, *, raw: bool = False) -> dict[str, Any]:
    """The columns; ids are text, times epoch milliseconds. Without the body."""
    record = {**msgspec.structs.asdict(row), "id": str(row.id)}
    record.pop("body", None)
    return {**record, "detail": output.prose(row.detail, raw=raw)}


@command.command("show", short_help="All that is known of one, and its body.")
@click.argument("number", metavar="ID", type=_number)
@click.option("--raw", is_flag=True, help="Mask and shorten nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its body_base64 is never masked.")
@shared_options
@click.pass_context
def show(context: click.Context, number: int, *, raw: bool, as_json: bool) -> None:
    """Show all that is known of the dead letter ID: what failed and where, and its body.

    Exit 1 when there is none.
    """
    with DeadLetters(context.ensure_object(Invocation).database()) as letters:
        letter = letters.whole([number]).get(number)
    if letter is None:
        _deny([number])
        context.exit(1)
    if as_json:
        text = output.prose(letter.body.decode("utf-8", "backslashreplace"), raw=raw)
        output.write_json({**_record(letter, raw=raw), "body": text, "body_base64": _base64(letter)})
    else:
        _print(letter, raw=raw)


def _print(letter: WholeLetter, *, raw: bool) -> None:
    console = output.console()
    console.print(output.heading(f"Dead letter {letter.id}"))
    console.print(output.facts(_facts(letter, raw=raw)))
    place = body.excerpt(letter.body, letter.tag, letter.reason, letter.detail, raw=raw)
    if place is not None:
        console.print()
        console.print(output.heading("The place"))
        for line in place:
            click.echo(line)
    console.print()
    console.print(output.heading(f"Body, {letter.size:,} bytes"))
    for line in body.lines(letter.body, raw=raw):
        click.echo(line)


def _facts(letter: WholeLetter, *, raw: bool) -> list[tuple[str, str]]:
    outcome = letter.outcome
    if outcome != "open":
        joint = "as" if outcome == "replayed" else "because"
        outcome = f"{outcome} {output.moment(letter.outcome_at) or '-'} {joint} {letter.outcome_note or '-'}"
    meaning = _MEANINGS.get(letter.reason)
    instance = f", instance {letter.instance}" if letter.instance else ""
    facts = [
        ("reason", f"{letter.reason}: {meaning}" if meaning else letter.reason),
        ("detail", output.prose(letter.detail, raw=raw)),
        ("dead since", output.moment(letter.dead_at) or str(letter.dead_at)),
        ("born", output.moment(letter.born_at) or str(letter.born_at)),
        ("outcome", outcome),
        ("failed replays", f"{letter.replays:,}"),
        ("source", f"{letter.source}, group {letter.consumer_group or '-'}{instance}"),
        ("queue", f"{letter.system_topic} {letter.broker}:{letter.queue_id}, offset {letter.queue_offset}"),
        ("tag", letter.tag),
        ("keys", letter.keys_),
        ("transport id", letter.transport_id),
        ("origin id", letter.origin_id if letter.origin_id != letter.transport_id else ""),
        ("sent back", f"{letter.attempt:,} times" if letter.attempt else ""),
    ]
    return [(name, value) for name, value in facts if value]


# --- replaying and dropping -----------------------------------------------------------------------------


@command.command("replay", short_help="Decode again by today's code, and land.")
@click.argument("numbers", metavar="[ID]...", type=_number, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All open ones, instead of naming them.")
@_reason_option
@_since_option
@click.option("--dry-run", is_flag=True, help="Only try to read them; write nothing.")
@_json_option
@shared_options
@click.pass_context
def replay(
    context: click.Context,
    numbers: tuple[int, ...],
    *,
    everything: bool,
    reason: str | None,
    since: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Decode the letters ID again, by today's code, and land them as if they had just come.

    A letter that is still unreadable stays open; the others are done all the same. Exit 1 when any stays dead.
    """
    if everything == bool(numbers):
        raise click.UsageError("name dead letters by ID, or take all open ones with --all")
    if numbers and (reason is not None or since is not None):
        raise click.UsageError("--reason and --since narrow --all; they do not go with an ID")
    invocation = context.ensure_object(Invocation)
    settings = invocation.settings()
    logging.configure("debug" if invocation.debug else "warning", settings.run.log_format)
    chosen: Selection | tuple[int, ...] = numbers or Selection(reason, since)
    decode = _decode(settings.app.key)
    database = invocation.database()
    with contextlib.closing(database), DeadLetters(database) as letters:
        replaying = Replay(database, decode)

        def results() -> Iterator[Result]:
            for batch in letters.batches(chosen):
                if dry_run:
                    yield from replaying.rehearse(batch, letters.whole(batch))
                else:
                    yield from replaying.run(batch)
                sys.stdout.flush()

        fine = _tell(results(), as_json=as_json, fine=_REPLAYED)
    if not fine:
        context.exit(1)


def _decode(app_key: str) -> Callable[[str, Delivery], Message]:
    decoder = lru_cache(lambda source: Decoder(source, app_key))
    decoder("")  # what is wrong with the key is wrong now, not a fault of each letter
    return lambda source, delivery: decoder(source).decode(delivery)


@command.command("drop", short_help="Give up for good, with the reason why.")
@click.argument("numbers", metavar="ID...", type=_number, nargs=-1, required=True)
@click.option("--why", required=True, metavar="TEXT", help="Kept with each of them.")
@_json_option
@shared_options
@click.pass_context
def drop_(context: click.Context, numbers: tuple[int, ...], *, why: str, as_json: bool) -> None:
    """Give up the letters ID for good. Their rows stay, and say why."""
    if not why.strip():
        raise click.BadParameter("say why, for whoever looks later", param_hint="--why")
    database = context.ensure_object(Invocation).database()
    with contextlib.closing(database), DeadLetters(database):
        results = drop(database, sorted(set(numbers)), why.strip())
    if not _tell(results, as_json=as_json, fine=_DROPPED):
        context.exit(1)


def _tell(results: Iterable[Result], *, as_json: bool, fine: frozenset[Fate]) -> bool:
    """One line each on stdout, and a summary on stderr. Whether all of them came to a `fine` end."""
    fates: Counter[Fate] = Counter()
    refused: dict[Fate, list[int]] = {}
    try:
        for result in results:
            fates[result.fate] += 1
            if result.fate not in fine:
                refused.setdefault(result.fate, []).append(result.id)
            if as_json:
                output.write_json(_told(result))
            elif result.fate is not Fate.UNKNOWN:
                click.echo(f"{result.id:>6}  {result.fate:<15}  {escaped(_note(result))}")
    finally:
        for fate in (Fate.REPLAYED_BEFORE, Fate.DROPPED_BEFORE):
            if fate in refused:
                click.echo(f"error: {fate}, and left as it is: {_named(refused[fate])}", err=True)
        if Fate.UNKNOWN in refused:
            _deny(refused[Fate.UNKNOWN])
        told = [f"{count:,} {fate}" for fate, count in fates.items()]
        click.echo(", ".join(told) or "no dead letters", err=True)
    return fates.keys() <= fine


def _told(result: Result) -> dict[str, Any]:
    note = output.prose(result.note, raw=False) if result.fate is Fate.STILL_DEAD else result.note
    return {"id": str(result.id), "fate": result.fate.value, "reason": result.reason, "note": note}


def _note(result: Result) -> str:
    if result.fate is Fate.STILL_DEAD:
        return short(f"{result.reason}: {output.prose(result.note, raw=False)}", _NOTE)
    return result.note


def _deny(numbers: Sequence[int]) -> None:
    click.echo(f"error: there is no dead letter {_named(numbers)}", err=True)
    click.echo("  remedy: `jst-bridge dead list --all` has their ids", err=True)


def _named(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


# --- exporting ------------------------------------------------------------------------------------------


@command.command("export", short_help="As JSON lines, bodies and all.")
@_reason_option
@_since_option
@click.option("--all", "everything", is_flag=True, help="Also those replayed or dropped.")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a new file that only you can read, instead of stdout.",
)
@shared_options
@click.pass_obj
def export(
    invocation: Invocation, *, reason: str | None, since: int | None, everything: bool, file: Path | None
) -> None:
    """Write dead letters as JSON lines, the oldest first: every column, the body as body_base64. Nothing is masked."""
    selection = Selection(reason, since, everything)
    with DeadLetters(invocation.database()) as letters, _into(file):
        count = 0
        for batch in letters.batches(selection):
            for letter in letters.whole(batch).values():
                output.write_json({**_record(letter, raw=True), "body_base64": _base64(letter)})
                count += 1
    where = f" to {escaped(str(file))}" if file is not None else ""
    click.echo(f"{count:,} dead letters exported{where}", err=True)


@contextlib.contextmanager
def _into(file: Path | None) -> Iterator[None]:
    """What is written to stdout goes into a new file instead; one that was not finished is removed."""
    if file is None:
        yield
        return
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise JstBridgeError(
            f"{file} exists", remedy="name a file that does not, or move this one away"
        ) from None
    except OSError as error:
        raise _unwritable(file, error) from None
    try:
        with open(descriptor, "w", encoding="utf-8") as target:
            with contextlib.redirect_stdout(target):
                yield
            target.flush()
            os.fsync(target.fileno())
    except OSError as error:
        file.unlink(missing_ok=True)
        raise _unwritable(file, error) from error
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _unwritable(file: Path, error: OSError) -> JstBridgeError:
    return JstBridgeError(
        f"{file} cannot be written: {error.strerror}", remedy="name a file on a disk with room, in a"
        " directory that is there and that you may write"
    )  # fmt: skip


def _base64(letter: WholeLetter) -> str:
    return base64.b64encode(letter.body).decode()
