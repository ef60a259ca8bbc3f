"""The bridge and its world for somebody else's tests: publish a message, wait until it has landed, look.

def test_a_paid_order_is_to_be_shipped(jst_sandbox):
    jst_sandbox.publish("taobao_trade_TradeBuyerPay", seller="shop", tid=1, oid=1, status="WAIT_SELLER_SEND_GOODS")
    jst_sandbox.wait_until_landed()
    assert orders_to_ship(jst_sandbox.store_url) == ["1"]
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from sqlalchemy import select

from jst_bridge.errors import JstBridgeError, StoreError
from jst_bridge.messages import Content
from jst_bridge.messages.catalogue import lookup
from jst_bridge.settings import Settings, load
from jst_bridge.store import Reader, open_reader, schema

from .platform import Platform
from .traffic.publishing import PUBLISHER

__all__ = ["SandboxHarness"]

_FIRST_ID: Final = 4_112_500_053_989_000_000
_POLL: Final = 0.01
_STOP_SECONDS: Final = 20.0
_BEIJING: Final = timezone(timedelta(hours=8))


class SandboxHarness:
    """A platform, a configuration that points at it, and `jst-bridge run` in a process. A context manager."""

    def __init__(self, directory: Path) -> None:
        """Configuration, database and log go into `directory`."""
        self.directory = directory
        self.platform = Platform()
        self.config = directory / "jst-bridge.toml"
        self.log = directory / "run.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._published: dict[str, bytes] = {}
        """Key -> body of what has not been seen landed."""
        self._serial = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def settings(self) -> Settings:
        return load(str(self.config))

    @property
    def store_url(self) -> str:
        """Of the database everything lands in, as `sqlite:////absolute/path`."""
        return self.settings.store.url

    def start(self) -> None:
        """Start the servers and the bridge. Raises JstBridgeError."""
        self.platform.start()
        self.config.touch(mode=0o600)
        database = (self.directory / "jst-bridge.db").resolve()
        self.config.write_text(self.platform.configuration(f"sqlite:///{database}"), encoding="utf-8")
        self.start_bridge()

    def stop(self) -> None:
        """Stop the bridge in order, and the servers. Idempotent."""
        try:
            self.stop_bridge()
        finally:
            self.platform.stop()

    def start_bridge(self) -> None:
        """Start `jst-bridge run`; what is published before it is ready waits at the broker."""
        command = [sys.executable, "-m", "jst_bridge", "-c", str(self.config), "run"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 our own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop_bridge(self) -> None:
        """SIGTERM, and wait; what lands is landed, what is not comes again. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            finally:
                process.kill()
                process.wait()

    def kill_bridge(self) -> None:
        """SIGKILL: nothing that was published may be lost by it, nor land twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def publish(
        self,
        topic: str,
        content: Content | Mapping[str, Any] | None = None,
        /,
        *,
        seller: str = "",
        **fields: Any,
    ) -> str:
        """Publish a message as Taobao does. Returns the key under which it lands.

        `content` is a typed one (`jst_bridge.messages.Trade(tid=1, ...)`) or a mapping; `fields` are added to it. Money
        may be Decimal, times datetime. ValueError: the topic is none of the platform's catalogue.
        """
        if lookup(topic) is None:
            raise ValueError(f"{topic} is no message type of the platform; `jst-bridge topics list` has them")
        said = {**_plain(content), **fields}
        self._serial += 1
        number = _FIRST_ID + time.time_ns() // 1000 % 10**12 * 1000 + self._serial % 1000
        envelope = {
            "topic": topic,
            "content": json.dumps(said, ensure_ascii=False, default=_wire),
            "outgoing_id": number,
            "publish_time": time.time_ns() // 1_000_000,
            "publisher_appkey": PUBLISHER,
            "user_id": 733_740_000,
            **({"user_nick": seller} if seller else {}),
        }
        key = f"tb:{self.platform.app_key}:{number}"
        body = json.dumps(envelope, ensure_ascii=False).encode()
        self.publish_raw(body, tag=topic, keys=str(said.get("tid", "")))
        self._published[key] = body
        return key

    def publish_raw(self, body: bytes, *, tag: str = "", keys: str = "") -> None:
        """Put any body on the system topic: one that cannot be read becomes a dead letter."""
        topic = self.platform.system_topic
        self.platform.rocketmq.call(lambda cluster: cluster.publish(topic, body, tag=tag, keys=keys))

    def wait_until_landed(self, *keys: str, timeout: float = 30.0) -> None:
        """Wait until these messages, or all published so far, are in the store.

        Raises AssertionError after `timeout` seconds, or when one became a dead letter: with the reason.
        """
        wanted = set(keys or self._published)
        deadline = time.monotonic() + timeout
        while True:
            missing, reason = self._missing(wanted)
            if not missing:
                break
            if reason:
                raise AssertionError(f"{missing[0]} became a dead letter: {reason}")
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"the bridge does not run:\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{len(missing)} messages have not landed after {timeout:g} s, {missing[0]} for one:\n"
                    f"{self._last_words()}"
                )
            time.sleep(_POLL)
        for key in wanted:
            self._published.pop(key, None)

    def open_store(self) -> Reader:
        """The store, for reading: `timeline(tid)`, `messages(...)`. A context manager."""
        return open_reader(*self.settings.store.login)

    def _missing(self, wanted: set[str]) -> tuple[list[str], str]:
        """Those that have not landed, and why the first one never will."""
        try:
            with self.open_store() as reader:
                column = schema.messages.c.message_key
                landed = {key for (key,) in reader.rows(select(column).where(column.in_(wanted)))}
                letter = schema.dead_letters.c
                letters = {bytes(body): f"{reason}: {detail}" for body, reason, detail
                           in reader.rows(select(letter.body, letter.reason, letter.detail))}  # fmt: skip
        except StoreError:
            return sorted(wanted), ""  # not made yet, or being written to
        except JstBridgeError as error:
            return sorted(wanted), str(error)
        missing = sorted(wanted - landed)
        dead = [key for key in missing if self._published.get(key) in letters]
        return (dead or missing), (letters[self._published[dead[0]]] if dead else "")

    def _last_words(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else ""


def _plain(content: Content | Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(content, Content):
        fields = msgspec.structs.asdict(content)
        return {name: value for name, value in fields.items() if value is not None and name != "raw"}
    return dict(content or {})


def _wire(value: object) -> str:
    """As the platform writes it: money as text, times in Beijing."""
    if isinstance(value, Decimal):
        return f"{value:.2f}"
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return aware.astimezone(_BEIJING).strftime("%Y-%m-%d %H:%M:%S")
    raise TypeError(f"a message cannot hold a {type(value).__name__}")
