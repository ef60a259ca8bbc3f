"""`jst-bridge users import`: many sellers from a file, and what became of each in a file beside it."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import click

from jst_bridge.cli import output
from jst_bridge.cli.gateway import ask, gateway_option, json_option, rate_option, top_settings
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.cli.tally import Tally
from jst_bridge.errors import JstBridgeError, StoreError
from jst_bridge.onboarding import Import, Journal, Outcome, State, read_roster
from jst_bridge.ops.text import escaped, short
from jst_bridge.store.sellers import Sellers

__all__ = ["import_"]

_SHOWN: Final = 20
"""Rows that failed, in the summary for people; all are in the result file."""
_REASON: Final = 200


@click.command("import", short_help="Add many sellers from a CSV file.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Only say what is wrong with the file and what would be done.")
@gateway_option
@rate_option
@json_option
@shared_options
@click.pass_context
def import_(
    context: click.Context, *, file: Path, dry_run: bool, gateway: str | None, rate: float, as_json: bool
) -> None:
    """Add the sellers of FILE: CSV in UTF-8 or GBK whose first line is nick,session,topics,group.

    topics (separated by blanks) and group may be empty or missing. A bad row does not stop the others. What became of
    each is written to FILE's name with .result.csv. Stopped or killed, the same command goes on where it was, by a
    journal beside the file; rows that failed are tried again. Exit 1 when a row is bad or failed.
    """
    invocation = context.ensure_object(Invocation)
    app = top_settings(invocation.settings(), gateway, rate)
    rows = read_roster(file)
    journal = Journal(_beside(file, ".journal"), f"{app.gateway} {app.app_key}", app.secret)
    with closing(Sellers(invocation.database())) as sellers:
        if dry_run:
            journal.peek()
            work = Import(rows, journal, _known(sellers, file_may_be_missing=True))
            _tell(work.outcomes, None, as_json=as_json, rehearsed=True)
        else:
            sellers.require_usable()
            with journal, Tally(len(rows), "rows", "failed") as tally:
                known = _known(sellers)
                work = Import(rows, journal, known, lambda outcome: tally.step(bad=not outcome.is_open))
                try:
                    ask(invocation, gateway, lambda jms: work.run(jms, sellers), rate=rate)
                except BaseException:
                    _write(_beside(file, ".result.csv"), work.outcomes)
                    done = sum(outcome.is_open for outcome in work.outcomes)
                    click.echo(
                        f"{done:,} of {len(rows):,} sellers are added; the same command goes on", err=True
                    )
                    raise
                _write(_beside(file, ".result.csv"), work.outcomes)
            _tell(work.outcomes, _beside(file, ".result.csv"), as_json=as_json, rehearsed=False)
    if any(outcome.state in (State.BAD, State.FAILED) for outcome in work.outcomes):
        context.exit(1)


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.stem + ending)


def _known(sellers: Sellers, *, file_may_be_missing: bool = False) -> dict[str, str]:
    try:
        return {row.nick: row.user_id for row in sellers.all()}
    except StoreError:
        if file_may_be_missing:
            return {}
        raise


def _write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """A new file in place of the last one, whole or not at all. With a byte order mark, as spreadsheets want it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("line", "nick", "result", "user_id", "reason", "remedy"))
    for one in outcomes:
        words = (one.row.line, one.row.nick, one.state.value, one.user_id, one.reason, one.remedy)
        writer.writerow([escaped(str(word)) for word in words])
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8-sig", newline="") as stream:
            stream.write(text.getvalue())
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise JstBridgeError(
            f"{path} cannot be written: {error.strerror}",
            remedy="let this user write the directory; the same command then writes the result without adding anybody"
            " twice",
        ) from None


def _tell(outcomes: Sequence[Outcome], result: Path | None, *, as_json: bool, rehearsed: bool) -> None:
    counts = Counter(outcome.state for outcome in outcomes)
    failed = [outcome for outcome in outcomes if outcome.state in (State.BAD, State.FAILED)]
    words = {State.WAITING: "to be added"} if rehearsed else {}
    if as_json:
        for outcome in outcomes:
            output.write_json(_record(outcome))
    else:
        console = output.console()
        facts = [(words.get(state, state.value), f"{counts[state]:,}") for state in State if counts[state]]
        console.print(output.facts([*facts, *([("result", str(result))] if result else [])]))
        if failed:
            console.print()
            console.print(_table(failed[:_SHOWN]))
        if len(failed) > _SHOWN:
            console.print(f"and {len(failed) - _SHOWN:,} more" + (": see the result file" if result else ""))
    told = ", ".join(f"{counts[state]:,} {words.get(state, state.value)}" for state in State if counts[state])
    if as_json:
        click.echo(told or "no rows", err=True)


def _record(outcome: Outcome) -> dict[str, Any]:
    return {
        "line": outcome.row.line,
        "nick": outcome.row.nick,
        "result": outcome.state.value,
        "user_id": outcome.user_id,
        "reason": outcome.reason,
        "remedy": outcome.remedy,
    }


def _table(outcomes: Sequence[Outcome]) -> Any:
    columns = (output.number("line"), output.Column("nick"), output.Column("reason"))
    return output.table(
        columns,
        [(outcome.row.line, outcome.row.nick, short(outcome.reason, _REASON)) for outcome in outcomes],
    )
