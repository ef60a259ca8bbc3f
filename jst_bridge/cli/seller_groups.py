"""`jst-bridge seller-groups`: the platform's grouping of sellers, which guards big ones in a promotion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import click

from jst_bridge.cli import output
from jst_bridge.cli.gateway import ask, gateway_option, json_option, nicks_argument
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.errors import StoreError
from jst_bridge.onboarding import fault_of_group
from jst_bridge.ops.text import escaped
from jst_bridge.store.sellers import Sellers
from jst_bridge.top import JmsClient, SellerGroup

_AT_ONCE = 20
"""Sellers in one call (the platform's limit)."""

_platform_option = click.option(
    "--platform",
    type=click.Choice(["tbUIC", "icbu"]),
    help="Whose sellers they are; the platform's default is tbUIC.",
)


@click.group("seller-groups")
def command() -> None:
    """List, add to and delete seller groups: sellers whose messages the platform keeps apart from all others'."""


def _group(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    for name in value if isinstance(value, tuple) else (value,):
        fault = fault_of_group(name) if name.strip() else "the name is empty"
        if fault:
            raise click.BadParameter(fault)
    return value


@command.command("list")
@click.argument("names", metavar="[NAME]...", nargs=-1, callback=_group)
@gateway_option
@json_option
@shared_options
@click.pass_context
def list_(context: click.Context, *, names: tuple[str, ...], gateway: str | None, as_json: bool) -> None:
    """List the app's seller groups, or those named. The platform does not tell who is in them.

    Exit 1 when one that is named does not exist.
    """
    invocation = context.ensure_object(Invocation)
    groups = ask(invocation, gateway, lambda jms: jms.get_groups(names or None))
    if as_json:
        for group in groups:
            output.write_json(_record(group))
    elif groups:
        columns = (output.Column("group"), output.Column("created", whole=True), output.Column("description"))
        rows = [(group.name, _day(group), group.description or None) for group in groups]
        output.console().print(output.table(columns, rows))
    else:
        click.echo("no seller groups", err=True)
    missing = [name for name in names if name not in {group.name for group in groups}]
    if missing:
        click.echo(f"error: there is no seller group {escaped(', '.join(missing))}", err=True)
        context.exit(1)


def _day(group: SellerGroup) -> str | None:
    return None if group.created_at is None else f"{group.created_at:%Y-%m-%d %H:%M:%S}"


def _record(group: SellerGroup) -> dict[str, Any]:
    return group.model_dump(mode="json", exclude={"request_id"})


@command.command("add")
@click.argument("name", metavar="NAME", callback=_group)
@nicks_argument(required=True)
@_platform_option
@gateway_option
@json_option
@shared_options
@click.pass_obj
def add(
    invocation: Invocation,
    *,
    name: str,
    nicks: tuple[str, ...],
    platform: Any,
    gateway: str | None,
    as_json: bool,
) -> None:
    """Put sellers into the seller group NAME, which comes to be with its first."""

    async def work(jms: JmsClient, part: list[str]) -> None:
        await jms.add_group(name, part, platform=platform)

    count = _by_parts(invocation, gateway, nicks, work, "put into")
    with _remembering(invocation, f"{count} sellers are in the group {name} at the platform") as sellers:
        sellers.put_into_group(name, nicks)
    _tell(name, nicks, "in", as_json=as_json)


@command.command("delete")
@click.argument("name", metavar="NAME", callback=_group)
@nicks_argument(required=False)
@click.option("--all", "everything", is_flag=True, help="The group itself, instead of sellers in it.")
@_platform_option
@gateway_option
@json_option
@shared_options
@click.pass_obj
def delete(
    invocation: Invocation,
    *,
    name: str,
    nicks: tuple[str, ...],
    everything: bool,
    platform: Any,
    gateway: str | None,
    as_json: bool,
) -> None:
    """Take sellers out of the seller group NAME; with --all delete the group. Their messages go on flowing."""
    if everything == bool(nicks):
        raise click.UsageError("name the sellers to take out, or delete the whole group with --all")
    if everything:
        ask(invocation, gateway, lambda jms: jms.delete_group(name, platform=platform))
    else:

        async def work(jms: JmsClient, part: list[str]) -> None:
            await jms.delete_group(name, part, platform=platform)

        _by_parts(invocation, gateway, nicks, work, "taken out of")
    with _remembering(invocation, f"the platform has changed the group {name}") as sellers:
        sellers.dissolve(name, None if everything else nicks)
    _tell(name, nicks, "deleted" if everything else "out", as_json=as_json)


def _by_parts(
    invocation: Invocation,
    gateway: str | None,
    nicks: tuple[str, ...],
    work: Callable[[JmsClient, list[str]], Any],
    deed: str,
) -> int:
    """Some sellers per call; says how far it came when one fails."""
    wanted = list(dict.fromkeys(nicks))

    async def run(jms: JmsClient) -> int:
        for first in range(0, len(wanted), _AT_ONCE):
            try:
                await work(jms, wanted[first : first + _AT_ONCE])
            except Exception:
                if first:
                    click.echo(
                        f"{first} of {len(wanted)} sellers were {deed} the group before this:", err=True
                    )
                raise
        return len(wanted)

    return ask(invocation, gateway, run)


@contextlib.contextmanager
def _remembering(invocation: Invocation, done: str) -> Any:
    """The store, where it exists; what it cannot remember is only said: `users list` alone shows it."""
    sellers = Sellers(invocation.database())
    try:
        yield sellers
    except StoreError as error:
        click.echo(
            f"warning: {escaped(done)}, but the store does not remember it: {escaped(str(error))}", err=True
        )
    finally:
        sellers.close()


def _tell(name: str, nicks: tuple[str, ...], state: str, *, as_json: bool) -> None:
    if as_json:
        output.write_json({"group": name, "nicks": list(nicks), "state": state})
    elif state == "deleted":
        click.echo(f"the seller group {escaped(name)} is deleted")
    else:
        words = "in" if state == "in" else "not in"
        click.echo(f"{escaped(', '.join(nicks))}: {words} the seller group {escaped(name)} now")
