"""What every command shares: which configuration, and how much to say when something goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from jst_bridge.settings import Settings
    from jst_bridge.store import Database, Reader

__all__ = ["Invocation", "shared_options"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Invocation:
    """One call of the program; the `obj` of every click context."""

    config: str | None = None
    """-c as given; None leaves the search to `settings.load`."""
    debug: bool = field(default_factory=lambda: os.environ.get("JST_DEBUG", "") not in ("", "0"))

    def settings(self) -> Settings:
        """Load the configuration. Raises ConfigurationError."""
        from jst_bridge.settings import load

        return load(self.config)

    def reader(self) -> Reader:
        """The configured store, open for reading. Raises ConfigurationError, StoreError."""
        from jst_bridge.store import open_reader

        return open_reader(*self.settings().store.login)

    def database(self) -> Database:
        """The configured store's database, still closed, for maintenance. Raises ConfigurationError."""
        from jst_bridge.store import open_database

        return open_database(*self.settings().store.login)


def shared_options(command: F) -> F:
    """-c and --debug, alike before and after the name of the command; the later one counts."""
    config = click.option(
        "-c",
        "--config",
        metavar="FILE",
        expose_value=False,
        callback=_take("config"),
        help="The configuration; else $JST_BRIDGE_CONFIG, else ./jst-bridge.toml.",
    )
    debug = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_take("debug"),
        help="Show the traceback of an error (also JST_DEBUG=1).",
    )
    return config(debug(command))


def _take(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Invocation), name, value)

    return callback
