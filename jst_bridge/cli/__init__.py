"""The command line: `jst-bridge COMMAND`. Data on stdout, talk on stderr, exit codes of sysexits(3).

     0 done                1 failed, or nothing found     2 wrong usage
    69 a server refused   70 a defect of jst-bridge      75 try again later
    77 keys refused       78 wrong configuration        130 interrupted

Commands are imported when they are called, so that --version and --help answer at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from jst_bridge import __version__
from jst_bridge.cli.invocation import Invocation, shared_options
from jst_bridge.errors import JstBridgeError

__all__ = ["cli"]

_COMMANDS = {
    "demo": "See it work on this machine, with nothing else needed.",
    "sandbox": "A platform on this machine to work with, and traffic for it.",
    "run": "Land what the sources deliver, until stopped.",
    "check": "Say what the configuration means and what is wrong with it.",
    "status": "Show lag, gaps and what the store holds.",
    "messages": "List landed messages.",
    "timeline": "Show what happened to one order.",
    "dead": "List, show, replay, drop and export dead letters.",
    "peek": "Look at the newest messages at the broker.",
    "offsets": "Show and move the offsets of a consumer group.",
    "consumers": "List the members of a consumer group.",
    "users": "Add, delete, check, import and list the sellers whose messages flow.",
    "topics": "Look up message types, and those open for a seller.",
    "seller-groups": "List, add to and delete the platform's groups of sellers.",
    "store": "Show, migrate, prune, purge or rebuild what the store holds.",
}
_DEFECT = 70
_INTERRUPTED = 130


class _CommandLine(click.Group):
    """A group that imports its commands late and turns every exception into a clear line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"jst_bridge.cli.{cmd_name.replace('-', '_')}").command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def main(self, *args: Any, **extra: Any) -> Any:
        invocation = extra.setdefault("obj", Invocation())
        standalone = extra.get("standalone_mode", True)
        extra["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **extra)
        _print_anything()
        try:
            code = super().main(*args, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_stdout()
            sys.exit(1)
        except Exception as error:  # noqa: BLE001 the last resort of the program
            sys.exit(_report(error, debug=invocation.debug))
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception, *, debug: bool) -> int:
    """Say on stderr what ended the command; answers the exit code."""
    if isinstance(error, click.Abort):
        return _INTERRUPTED
    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _silence_stdout()
        click.echo(f"error: the output cannot be written: {error.strerror}", err=True)
        click.echo("  remedy: make room where it goes", err=True)
        return 1
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    from jst_bridge.ops.text import escaped

    if debug:
        click.echo(escaped("".join(traceback.format_exception(error)), lines=True), err=True, nl=False)
    if isinstance(error, JstBridgeError):
        for line in str(error).splitlines() or [type(error).__name__]:
            click.echo(f"error: {escaped(line)}", err=True)
        for line in error.remedy.splitlines():
            click.echo(f"  remedy: {escaped(line)}", err=True)
        return error.exit_code
    # The message of an unforeseen exception may quote a message body or a URL with its password.
    click.echo(f"error: unexpected {type(error).__name__} {_place(error)}; this is a defect", err=True)
    if not debug:
        click.echo("  remedy: run it again with --debug, and report the traceback", err=True)
    return _DEFECT


def _place(error: Exception) -> str:
    """The innermost line of our own that the exception passed."""
    package = str(Path(__file__).parents[1])
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(package)]
    if not own:
        return "outside of jst-bridge"
    return f"in {Path(own[-1].filename).relative_to(Path(package).parent)}:{own[-1].lineno}"


def _print_anything() -> None:
    """A terminal of another encoding gets escapes, not an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """The reader of a pipe has left: let the interpreter's last flush go nowhere, quietly."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@click.command("jst-bridge", cls=_CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
@click.version_option(__version__, prog_name="jst-bridge")
def cli() -> None:
    """Land Taobao's Jushita (聚石塔) messages in your database, exactly once."""
