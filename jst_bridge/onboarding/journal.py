"""What an import has done so far, durable before the next row: a killed import goes on where it was.

One JSON object a line, beside the input. A row is named by a keyed hash of all that would be sent for it, so a row that
was changed counts as new, and neither nick nor session can be read from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from jst_bridge.errors import JstBridgeError

from .roster import Row

__all__ = ["Journal", "Stage"]

_HEADER: Final = b'{"journal":"jst-bridge users import","version":1}\n'


class Stage(IntEnum):
    """How far a row has come."""

    ADDED = 1
    """The platform has confirmed it."""
    DONE = 2
    """It was read back, and the store remembers it."""
    GROUPED = 3
    """It is in its seller group."""


class Busy(JstBridgeError):
    """Another process works on the same file."""

    exit_code = 75
    retriable = True


class Journal:
    """The journal at `path`; a context manager. `app` and `secret` are parts of the names of its rows."""

    def __init__(self, path: Path, app: str, secret: str) -> None:
        self.path = path
        self._app = app
        self._key = hashlib.blake2b(secret.encode(), digest_size=32, person=b"jst-import").digest()
        self._stages: dict[str, Stage] = {}
        self._file = -1

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def mark(self, row: Row) -> str:
        """The name of a row."""
        words = (self._app, row.nick, row.session, " ".join(row.topics or ()), row.group)
        return hashlib.blake2b("\0".join(words).encode(), digest_size=16, key=self._key).hexdigest()

    def stage(self, mark: str) -> Stage | None:
        return self._stages.get(mark)

    def peek(self) -> None:
        """Read what is there; change and lock nothing."""
        try:
            self._read(self.path.read_bytes())
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unusable(error) from None

    def open(self) -> None:
        """Make or continue it. Raises JstBridgeError: another import has it, it cannot be written, it is no journal."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(os.dup(self._file), "rb") as file:
                end = self._read(file.read())
            os.ftruncate(self._file, end)  # without the line that a kill has cut
            os.lseek(self._file, end, os.SEEK_SET)
            if not end:
                self._append(_HEADER, durable=True)
        except BlockingIOError:
            self.close()
            raise Busy(
                f"another import of this file is running: {self.path} is locked", remedy="wait for its end"
            ) from None
        except OSError as error:
            self.close()
            raise self._unusable(error) from None
        except JstBridgeError:
            self.close()
            raise

    def note(self, marks: Iterable[str], stage: Stage) -> None:
        """Write down how far rows have come; ADDED is durable before this returns."""
        lines = []
        for mark in marks:
            self._stages[mark] = stage
            lines.append(json.dumps({"row": mark, "stage": int(stage)}, separators=(",", ":")) + "\n")
        try:
            # The later stages only save harmless questions.
            self._append("".join(lines).encode(), durable=stage is Stage.ADDED)
        except OSError as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        """Idempotent."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _append(self, data: bytes, *, durable: bool) -> None:
        while data:
            data = data[os.write(self._file, data) :]
        if durable:
            os.fsync(self._file)

    def _read(self, content: bytes) -> int:
        """Take in the whole lines; returns where they end."""
        if not content.startswith(_HEADER):
            if _HEADER.startswith(content):
                return 0
            raise JstBridgeError(
                f"{self.path} is not the journal of an import",
                remedy="move it away: an import writes its journal there",
            )
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines()[1:]:
            try:
                entry = json.loads(line)
                self._stages[str(entry["row"])] = Stage(entry["stage"])
            except (ValueError, KeyError, TypeError):
                continue  # a disk's garbage: that row is done again
        return len(whole)

    def _unusable(self, error: OSError) -> JstBridgeError:
        return JstBridgeError(
            f"{self.path} cannot be used: {error.strerror}",
            remedy="an import writes its journal there: let this user write it, on a disk with room",
        )
