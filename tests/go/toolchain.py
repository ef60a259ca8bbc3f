"""The Go programs of this directory, one file, built once and kept where the Java toolchain keeps its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.java.toolchain import ToolMissing, arriving, cache_directory, locked

__all__ = ["go_client"]

SOURCES = Path(__file__).parent
USUAL_PLACE = "/usr/local/go/bin/go"


def go_client() -> Path:
    """The compiled program: its first argument is consume or produce. The first call fetches rocketmq-client-go.

    Raises ToolMissing when Go 1.21 or newer is not there or cannot build it.
    """
    go = shutil.which("go") or shutil.which(USUAL_PLACE)
    if go is None:
        raise ToolMissing(f"go is neither on PATH nor at {USUAL_PLACE}: install Go 1.21 or newer")
    cache = cache_directory()
    files = [SOURCES / name for name in ("client.go", "produce.go", "go.mod", "go.sum")]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]
    made = cache / f"go-{digest}"
    with locked(cache / "lock"):
        if not made.is_dir():
            with arriving(made) as directory:
                build(go, directory)
    return made / "client"


def build(go: str, directory: Path) -> None:
    outcome = subprocess.run(
        [go, "build", "-trimpath", "-o", str(directory / "client"), "."],
        cwd=SOURCES,
        env={**os.environ, "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if outcome.returncode:
        reason = outcome.stderr.strip().rpartition("\n")[2]
        raise ToolMissing(f"{go} cannot build the programs of rocketmq-client-go: {reason}")
