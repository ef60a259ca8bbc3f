"""Keeps what the present schema looks like, for tests of the migrations to come: run it from a release.

    python tests/data/stores/keep.py

writes schema-N.db, a SQLite store with data that the release's own code landed, and the statements that make the same
schema on servers, schema-N.postgresql.sql and schema-N.mysql.sql. A file that is there already is never written again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from jst_bridge.messages import Decoder
from jst_bridge.ports import Gap, PlainDelivery, Position
from jst_bridge.store import migrations, open_database, open_store
from tests.stores import NOW, QUEUE, dead, landing
from tests.traffic import traffic

DIRECTORY = Path(__file__).parent
MESSAGES = 60


class NothingThere:
    """A cursor on an empty database, as far as `migrations.pending` asks."""

    def execute(self, statement: str) -> None: ...

    def fetchall(self) -> list[tuple[Any, ...]]:
        return []


def keep_file(path: Path) -> None:
    decoder = Decoder(QUEUE.source, "12345678")
    store = open_store(f"sqlite:///{path}")
    store.open()
    messages = [
        decoder.decode(
            PlainDelivery(fact.body, fact.tag, fact.keys, f"T{n}", f"T{n}", n, fact.published_at, queue=QUEUE)
        )
        for n, fact in enumerate(traffic(MESSAGES))
    ]
    store.land(
        landing(
            *messages,
            dead_letters=[dead("D1")],
            positions=[Position(QUEUE, MESSAGES + 2)],
            gaps=[Gap(QUEUE, 1, 3, "expired at the broker")],
        )
    )
    store.close()  # the last one to close it leaves no log beside it


def keep_statements(path: Path, url: str) -> None:
    statements = migrations.pending(NothingThere(), open_database(url).dialect, NOW)
    path.write_text("".join(f"{statement};\n" for statement in statements), encoding="utf-8")


def main() -> None:
    stem = f"schema-{migrations.newest()}"
    for name, keep in (
        (f"{stem}.db", keep_file),
        (f"{stem}.postgresql.sql", lambda path: keep_statements(path, "postgresql://u@h/d")),
        (f"{stem}.mysql.sql", lambda path: keep_statements(path, "mysql://u@h/d")),
    ):
        path = DIRECTORY / name
        if path.exists():
            sys.exit(f"{path} is there already: schema {migrations.newest()} was released")
        keep(path)
        print(path)


if __name__ == "__main__":
    main()
