"""python -m tests.fuzz: see the package."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.engine import fuzz, peak_rss, reproduce
from tests.fuzz.live import converse
from tests.fuzz.targets import TARGETS

LIVE = "live"
MOST_MEMORY = 768
"""MiB the process may ever have, with the corpus and what tracing takes."""


class Formatting(logging.Handler):
    """Prints nothing, but makes each line: what a peer said must be fit to be logged."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage().encode()


def main(arguments: Sequence[str]) -> int:
    """Run what was asked; 1 when something happened that must not."""
    by_name = {target.name: target for target in TARGETS}
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60, help="time in all, shared by the targets")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument(
        "--target", action="append", choices=[*by_name, LIVE], help="may be repeated; else all"
    )
    parser.add_argument("--reproduce", type=Path, help="run this one input of the one target")
    parser.add_argument("--lives", type=int, help="of the target live: how many, instead of a time")
    parser.add_argument(
        "--failures", type=Path, default=Path("fuzz-failures"), help="where failing inputs go"
    )
    options = parser.parse_args(arguments)
    log = logging.getLogger("jst_bridge")
    log.propagate = False
    log.addHandler(Formatting())
    log.setLevel(logging.DEBUG)
    faulthandler.enable()  # a crash of a C library says where
    names = options.target or [*by_name, LIVE]
    if options.reproduce is not None:
        reproduce(by_name[names[0]], options.reproduce.read_bytes())
        return 0
    print(f"seed {options.seed}", flush=True)
    failed = 0
    # A conversation costs a thousand times what a decoded input does.
    shares = {name: 4 if name == LIVE else 1 for name in names}
    for name in names:
        seconds = options.seconds * shares[name] / sum(shares.values())
        if name == LIVE:
            report = converse(seconds, options.seed, options.lives)
        else:
            report = fuzz(by_name[name], seconds, options.seed, options.failures)
        print(report, flush=True)
        for failure in report.failures:
            failed += 1
            print(f"{failure.what}\nagain: {failure.command}", flush=True)
    peak = peak_rss() >> 20
    print(f"peak memory of the process {peak} MiB of at most {MOST_MEMORY}, {failed} failures")
    return 1 if failed or peak > MOST_MEMORY else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
