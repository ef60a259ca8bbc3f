"""The targets under libFuzzer, where `pip install atheris` has it: python -m tests.fuzz.libfuzzer TARGET [option ...]

The options are libFuzzer's own, for instance -max_total_time=600 or a directory for the corpus. It stops at the
first finding and writes the input to a file, which `python -m tests.fuzz --target TARGET --reproduce FILE` takes.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jst_bridge.errors import DecodeError, SourceError


def main(arguments: Sequence[str]) -> None:
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["jst_bridge"]):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    by_name = {target.name: target for target in targets}
    if not arguments or arguments[0] not in by_name:
        sys.exit(f"name a target: {', '.join(by_name)}")
    target = by_name[arguments[0]]

    def work(data: bytes) -> None:
        try:
            target.work(data)
        except (DecodeError, SourceError):
            return

    with tempfile.TemporaryDirectory(prefix="jst-bridge-") as seeds:
        for number, seed in enumerate(target.seeds):
            (Path(seeds) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *arguments[1:], seeds], work)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
