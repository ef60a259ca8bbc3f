"""`jst-bridge check`: say what the configuration means, and try its connections."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import click

from jst_bridge.cli import output
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.ops import logging
from jst_bridge.ops.text import escaped
from jst_bridge.reaching import client_settings
from jst_bridge.settings import BEIJING, RocketmqSource, Settings, Tls


@click.command("check")
@click.option("--connect", is_flag=True, help="Also dial every server, and try credentials, topic and group.")
@shared_options
@click.pass_context
def command(context: click.Context, *, connect: bool) -> None:
    """Say what the configuration means and what is wrong with it.

    Exit 78 when it cannot be used; with --connect, the code of the first hop that failed.
    """
    invocation = context.ensure_object(Invocation)
    settings = invocation.settings()
    _describe(settings)
    for source in settings.source:
        client_settings(settings, source)  # certificates and their keys are looked into
    for warning in settings.warnings():
        click.echo(f"warning: {escaped(warning)}", err=True)
    if connect:
        logging.configure("debug" if invocation.debug else "error", settings.run.log_format)
        context.exit(asyncio.run(_connect(settings)))


def _describe(settings: Settings) -> None:
    app, store, run = settings.app, settings.store, settings.run
    signing = "unsigned, there is no secret"
    if app.secret is not None:
        signing = f"signed with the secret of {app.secret_file or 'app.secret'}"
    facts = [
        ("configuration", str(settings.file or "environment")),
        ("app", f"{app.key}, requests {signing}"),
        ("gateway", app.gateway),
        ("store", store.shown_url),
        ("keeps messages", _kept(store.keep_messages)),
        ("transaction", f"{run.max_batch_messages:,} messages or {run.max_batch_bytes:,} bytes at most"),
        ("stop deadline", f"{run.stop_deadline:g} s"),
        ("leaves its group", f"when the store is down for {run.leave_after:g} s"),
        ("logs", f"{run.log_level}, {run.log_format}"),
    ]
    console = output.console()
    console.print(output.facts(facts))
    for source in settings.source:
        console.print()
        console.print(output.heading(f"source {source.name}"))
        console.print(output.facts(_source_facts(settings, source)))


def _kept(span: timedelta | None) -> str:
    return "for ever" if span is None else f"for {span.days} days; the state of orders stays"


def _source_facts(settings: Settings, source: RocketmqSource) -> list[tuple[str, str]]:
    start = source.start_from
    shown = (
        f"{start.astimezone(BEIJING):%Y-%m-%d %H:%M:%S} Beijing time"
        if isinstance(start, datetime)
        else start
    )
    reader = "group has not committed yet" if source.instance is None else "instance is new"
    return [
        ("type", f"{source.type}, {source.mode}"),
        *([("instance", source.instance)] if source.instance else []),
        ("name servers", ", ".join(source.name_servers)),
        ("group", source.group),
        ("system topic", source.system_topic or ""),
        ("tags", source.tags),
        ("starts from", f"{shown}, when the {reader}"),
        ("credentials", _signed(settings, source)),
        ("TLS", _tls(source.tls)),
        *([("namespace", _namespace(source))] if source.namespace else []),
        *((f"for {one}", f"dials {other}") for one, other in source.broker_address_map.items()),
    ]


def _signed(settings: Settings, source: RocketmqSource) -> str:
    signing = settings.signing(source)
    if signing == "none":
        return "none, requests are unsigned"
    channel = f", channel {source.channel or 'none'}" if signing == "ons" else ""
    token = ", with a security token" if source.security_token else ""
    return f"{signing}, access key {source.access_key or settings.app.key}{channel}{token}"


def _tls(tls: Tls | None) -> str:
    if tls is None:
        return "off"
    trust = (
        "certificates are NOT checked" if tls.insecure else f"trusts {tls.ca_file or 'the CAs of the system'}"
    )
    name = f", as {tls.server_name}" if tls.server_name else ""
    return trust + name + (f", shows {tls.cert_file}" if tls.cert_file else "")


def _namespace(source: RocketmqSource) -> str:
    return f"{source.namespace}, {'also' if source.namespace_system_topic else 'not'} of rmq_sys_ topics"


async def _connect(settings: Settings) -> int:
    """Print each hop as it is tried; answers the exit code of the first that failed, else 0."""
    from jst_bridge import app

    code = 0
    async for hop in app.check_connections(settings):
        click.echo(f"{'ok    ' if hop.ok else 'FAILED'}  {escaped(hop.name)}: {escaped(hop.detail)}")
        if not hop.ok:
            code = code or hop.exit_code
            click.echo(f"        remedy: {escaped(hop.remedy)}")
    return code
