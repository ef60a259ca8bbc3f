"""The program: `jst-bridge`, or `python -m jst_bridge`."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """The console script. Ctrl-C ends it with 130 and no traceback, from its first import on."""
    try:
        from jst_bridge.cli import cli

        cli.main(prog_name="jst-bridge")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # Nothing is left to interrupt, nor to hang (our threads are daemons); the interpreter's end would die of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
