"""`jst-bridge demo`: the whole program at work on this machine, with nothing else needed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Final

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sqlalchemy import func, select

from jst_bridge.cli import output
from jst_bridge.cli.timeline import show
from jst_bridge.errors import ConfigurationError, JstBridgeError
from jst_bridge.ops.text import escaped
from jst_bridge.reaching import client_settings
from jst_bridge.rocketmq import Producer
from jst_bridge.sandbox.platform import Platform
from jst_bridge.sandbox.trading import now
from jst_bridge.sandbox.traffic import Disturbances, Outgoing, Traffic, TrafficSettings
from jst_bridge.sandbox.traffic.feeding import feed
from jst_bridge.settings import Settings, load
from jst_bridge.store import Reader, open_reader, schema
from jst_bridge.store.ledger import Ledger, ledgers

_ROUGH: Final = Disturbances(bad=0.003, duplicates=0.02, out_of_order=0.05)
_HOURS_BETWEEN_ORDERS: Final = 1.0
"""Of the story: so that within some thousand messages orders are also signed, returned and rated."""
_LIVE: Final = 0.25
_PLAIN: Final = 2.0
"""Seconds between two looks at the store, on a terminal and elsewhere."""
_PATIENCE: Final = 20.0
"""Seconds that the bridge gets to land what waits, and any program to end."""


@click.command("demo")
@click.option("--seconds", type=click.FloatRange(1, 3600), default=10.0, show_default=True, metavar="N",
              help="How long messages are published.")  # fmt: skip
@click.option("--sellers", type=click.IntRange(1, 20), default=3, show_default=True, metavar="N",
              help="Sellers to open.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(1, 5000), default=300.0, show_default=True, metavar="N",
              help="Messages a second.")  # fmt: skip
@click.option("--directory", type=click.Path(path_type=Path), metavar="DIR",
              help="Where configuration and database go, a new one; else ./jst-bridge-demo.")  # fmt: skip
def command(*, seconds: float, sellers: int, rate: float, directory: Path | None) -> None:
    """See it work: a platform on loopback, sellers who sign up, their orders, and the bridge landing them.

    Nothing leaves this machine. What landed stays in DIR, to be looked at with the other commands.
    """
    place = _make(directory)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_Demo(place, seconds, sellers, rate).play())
        return
    raise KeyboardInterrupt


def _make(directory: Path | None) -> Path:
    """The directory of this demo, new. Raises ConfigurationError."""
    names = [directory] if directory is not None else _names(Path("jst-bridge-demo"))
    for name in names:
        try:
            name.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"{name} cannot be made: {error.strerror}", remedy="name another one with --directory"
            ) from None
        return name
    raise ConfigurationError(
        f"{directory} is there already, and the demo overwrites nothing", remedy="name a new --directory"
    )


def _names(first: Path) -> Iterator[Path]:
    return itertools.chain([first], (first.with_name(f"{first.name}-{n}") for n in range(2, 1000)))


class _Demo:
    """One showing."""

    def __init__(self, place: Path, seconds: float, sellers: int, rate: float) -> None:
        self._place = place
        self._config = place / "jst-bridge.toml"
        self._seconds = seconds
        self._rate = rate
        self._platform = Platform(sellers=sellers)
        self._console: Console = output.console()
        self._sent: Counter[str] = Counter()
        """Messages that were published, by seller."""
        self._copies = self._bad = 0

    async def play(self) -> None:
        """All of it. Raises JstBridgeError; what was started is ended in any case."""
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with self._platform:
            self._write()
            settings = load(str(self._config))
            self._say(
                f"A platform on this machine: RocketMQ at {self._platform.name_server}, the open platform at"
            )
            self._say(f"{self._platform.gateway.url}. Its sellers sign up:\n")
            self._say(f"$ cd {self._place}")
            await self._command("users", "import", "sellers.csv")
            self._say("\nTheir orders begin, and the bridge lands what happens to them:\n")
            self._show("run")
            async with self._program("run", log="run.log") as bridge:
                await self._traffic(settings, bridge)
        self._tell(settings)

    def _write(self) -> None:
        for name, text in (
            ("jst-bridge.toml", self._platform.configuration("sqlite:///jst-bridge.db")),
            ("sellers.csv", self._platform.roster()),
        ):
            file = self._place / name
            file.touch(mode=0o600)
            file.write_text(text, encoding="utf-8")

    # --- programs -----------------------------------------------------------------------------------

    def _show(self, *arguments: str) -> None:
        self._say(f"$ jst-bridge {' '.join(arguments)}")

    async def _command(self, *arguments: str) -> None:
        """Run a command of the program as a user would, with its output between ours."""
        self._show(*arguments)
        log = "-".join(arguments[:2]) + ".log"
        async with self._program(*arguments, log=log) as process:
            code = await asyncio.wait_for(process.wait(), _PATIENCE)
        text = (self._place / log).read_text(encoding="utf-8", errors="replace")
        self._say(escaped(text.rstrip(), lines=True))
        if code != 0:
            raise JstBridgeError(f"jst-bridge {arguments[0]} ended with {code}; this demo ends here")

    @contextlib.asynccontextmanager
    async def _program(self, *arguments: str, log: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command of ours in a process, which is gone at the end: asked to stop, then killed."""
        with (self._place / log).open("wb") as file:
            process = await self._start(file, arguments)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(asyncio.shield(process.wait()), _PATIENCE)
                finally:
                    if process.returncode is None:
                        process.kill()

    async def _start(self, file: IO[bytes], arguments: tuple[str, ...]) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C reaches this process alone, which then stops that one in order, once.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jst_bridge", *arguments),
            cwd=self._place,
            env={name: value for name, value in os.environ.items() if not name.startswith("JST_")},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    # --- messages -----------------------------------------------------------------------------------

    async def _traffic(self, settings: Settings, bridge: asyncio.subprocess.Process) -> None:
        """Publish, look at what has landed meanwhile, and wait for the rest."""
        traffic = Traffic(
            TrafficSettings(start=now(), spacing=_HOURS_BETWEEN_ORDERS * 3600, disturbances=_ROUGH),
            named=self._platform.sellers,
            admits=self._platform.is_open,
            clock=now,
        )
        outgoing = traffic.outgoing(round(self._rate * self._seconds))
        async with Producer(client_settings(settings, settings.source[0])) as producer:
            feeding = asyncio.create_task(
                feed(producer, self._platform.system_topic, outgoing, rate=self._rate, on_sent=self._count)
            )
            try:
                await self._watch(settings, feeding, bridge)
                await feeding
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    def _count(self, outgoing: Outgoing) -> None:
        if outgoing.message is None:
            self._bad += 1
        elif outgoing.again:
            self._copies += 1
        else:
            self._sent[outgoing.message.seller.nick] += 1

    async def _watch(
        self, settings: Settings, feeding: asyncio.Task[int], bridge: asyncio.subprocess.Process
    ) -> None:
        began = time.monotonic()
        live = self._console.is_terminal and not self._console.is_dumb_terminal
        with Live(console=self._console, auto_refresh=False) if live else contextlib.nullcontext() as shown:
            while True:
                held = self._held(settings)
                behind = sum(self._sent.values()) - sum(ledger.messages for ledger in held.values())
                if shown is not None:
                    shown.update(self._table(held), refresh=True)
                else:
                    landed = sum(ledger.messages for ledger in held.values())
                    self._say(
                        f"{time.monotonic() - began:5.1f} s  {landed:,} landed, {max(0, behind):,} behind"
                    )
                over = feeding.done() and behind <= 0
                if over or time.monotonic() - began > self._seconds + _PATIENCE:
                    break
                if bridge.returncode is not None:
                    raise JstBridgeError(
                        f"the bridge ended with {bridge.returncode}", remedy=f"see {self._place / 'run.log'}"
                    )
                await asyncio.sleep(_LIVE if shown is not None else _PLAIN)
        if not live:
            self._say("")
            self._console.print(self._table(held))

    def _held(self, settings: Settings) -> dict[str, Ledger]:
        try:
            with open_reader(*settings.store.login) as reader:
                return ledgers(reader)
        except JstBridgeError:  # not made yet
            return {}

    def _table(self, held: dict[str, Ledger]) -> Table:
        column, number = output.Column, output.number
        columns = (column("seller"), number("messages"), number("paid"), number("shipped"), number("finished"),
                   number("refunded"), number("lag"))  # fmt: skip
        rows = []
        for seller in self._platform.sellers:
            ledger = held.get(seller.nick, Ledger())
            lag = max(0, self._sent[seller.nick] - ledger.messages)
            states = (ledger.paid, ledger.shipped, ledger.finished, ledger.refunded)
            rows.append((seller.nick, ledger.messages, *states, lag))
        return output.table(columns, rows)

    # --- afterwards ---------------------------------------------------------------------------------

    def _tell(self, settings: Settings) -> None:
        with open_reader(*settings.store.login) as reader:
            letters = reader.counts().dead_letters
            tid = _returned_order(reader)
            self._say(
                f"\n{self._copies:,} messages were published twice: each landed once. {self._bad:,} bodies could not be"
                f"\nread: {letters:,} dead letters. Everything is in {self._place / 'jst-bridge.db'}."
            )
            if tid is not None:
                self._say("\nWhat happened to one of the orders:\n")
                self._show("timeline", tid)
                show(self._console, reader.timeline(tid), settings.app.key)
        self._say("\nTry next (the platform is gone, what landed is there):\n")
        self._say(f"  cd {self._place}")
        for words in ("messages --limit 5", "dead list", "store info"):
            self._say(f"  jst-bridge {words}")
        self._say("\nand `jst-bridge sandbox`, a platform to work with for as long as you like.")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def _returned_order(reader: Reader) -> str | None:
    """An order with a refund that succeeded, the one with the shortest story."""
    message, refund = schema.messages.c, schema.refunds.c
    query = (
        select(refund.tid)
        .join(schema.messages, message.tid == refund.tid)
        .where(refund.topic == "taobao_refund_RefundSuccess")
        .group_by(refund.tid)
        .order_by(func.count(), refund.tid)
        .limit(1)
    )
    found = reader.rows(query)
    return str(found[0][0]) if found else None
