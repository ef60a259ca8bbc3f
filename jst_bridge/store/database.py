"""One database as the store uses it: its connection, its transactions, and what its errors mean.

A subclass per database says how to connect, begin and judge an error; everything else is here, once. What leaves a
transaction is a result that is durable, or one of: Refused (a value is at fault), StoreUnavailable (try again later)
or another StoreError. Whoever was in the way (deadlock, unique violation of another writer) is met again here.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import Any, ClassVar, Final, TypeVar

from sqlalchemy import Dialect

from jst_bridge.errors import StoreError, StoreUnavailable
from jst_bridge.store import migrations

__all__ = ["VALUE_ERRORS", "Database", "Refused", "Verdict", "now_ms"]

log = logging.getLogger(__name__)

VALUE_ERRORS: Final = (ArithmeticError, AttributeError, TypeError, ValueError)
"""What a value can do to a driver or to folding."""

REDO_SECONDS: Final = 20.0
"""How long one transaction is done again and again because of other writers."""
REDO_PAUSE: Final = 0.05

_Result = TypeVar("_Result")


class Verdict(Enum):
    """What an exception inside a transaction is about."""

    REFUSED = auto()
    """A value the database or its driver cannot take: the message is at fault."""
    CONTENDED = auto()
    """Another writer: deadlock, serialisation failure, a key it inserted first. The same again will do."""
    UNAVAILABLE = auto()
    """Connection, lock, space: the same later."""
    FAILED = auto()
    """Anything else: a defect, or a database that is not ours."""


class Refused(Exception):
    """A value was refused; the transaction is rolled back. The cause is the driver's error."""


class Database(ABC):
    """A database to be opened. Constructing one opens nothing; one thread at a time uses it.

    After an error the next transaction works again, on a new connection where the old one cannot be trusted.
    """

    shared: ClassVar[bool]
    """Every member of a consumer group writes into this one, not each into its own."""
    migrates_itself: ClassVar[bool]
    """An old schema is brought up to date by `open`, not by an administrator."""
    begin: ClassVar[str]
    """The statement that begins a transaction that writes."""
    snapshot: ClassVar[Sequence[str]]
    """The statements that begin one that only reads, all of the same moment."""
    clock: ClassVar[str]
    """SQL expression: the database's own time in epoch ms."""

    def __init__(self, label: str, dialect: Dialect) -> None:
        self.label = label
        """What messages call it: path or URL, without a password."""
        self.dialect = dialect
        self.redone = 0
        """Transactions that were done again because of other writers."""
        self._connection: Any = None
        self._current = False
        """The schema was checked on this connection."""

    # --- what each database says for itself ---------------------------------------------------------

    @abstractmethod
    def _connect(self) -> Any:
        """A new DB-API connection in autocommit mode, checked and configured."""

    @abstractmethod
    def connect_reading(self) -> Any:
        """A new DB-API connection in autocommit mode that cannot write. Raises StoreError."""

    @abstractmethod
    def verdict(self, error: BaseException) -> Verdict:
        """What `error`, raised inside a transaction, is about."""

    @abstractmethod
    def fault(self, error: BaseException) -> StoreError:
        """The error of ours for one that is neither refused nor contended."""

    def alone(self, cursor: Any) -> contextlib.AbstractContextManager[None]:
        """Let no other process change the schema meanwhile; the transaction may be left before the block ends."""
        return contextlib.nullcontext()

    def _check(self) -> None:
        """Raise StoreUnavailable when the open connection leads to something that is no longer the store."""
        return

    def _lost_transaction(self) -> bool:
        """Whether there is nothing left to commit: drivers then answer a commit as if all were well."""
        return False

    def trusts(self, error: BaseException) -> bool:
        """Whether the connection is as good as before after `error`, which was no value's fault."""
        return False

    # --- transactions -------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect. A new database gets its schema; an old one is brought up to date or refused (SchemaOutdated)."""
        try:
            self.transact(lambda cursor: None)
        except BaseException:
            self.close()
            raise

    def look(self) -> int:
        """The number of the schema, 0 for none yet; nothing is made. Raises as `open` does."""
        return self.transact(self._look, checked=False)

    def migrate(self) -> list[str]:
        """Bring the schema up to date, whoever's task it is. Returns the statements it took."""
        return self.transact(self._migrate, checked=False)

    def pending(self) -> list[str]:
        """The statements `migrate` would execute now."""
        return self.transact(lambda cursor: migrations.pending(cursor, self.dialect, now_ms()), checked=False)

    def transact(self, work: Callable[[Any], _Result], *, checked: bool = True) -> _Result:
        """Run `work` on a cursor in one transaction; what it returns is durable.

        Done again while other writers are in the way, so `work` must be free of other effects. On a new connection
        the schema is `checked` first. Raises Refused, StoreUnavailable, StoreError.
        """
        deadline = time.monotonic() + REDO_SECONDS
        while True:
            try:
                return self._attempt(work, checked)
            except _Contended as contended:
                self.redone += 1
                log.info("done again because of another writer: %s", contended)
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"the store {self.label} is busy: {contended}",
                        remedy="find who holds its locks; it goes on by itself when they are released",
                    ) from contended.__cause__
            time.sleep(random.uniform(0, REDO_PAUSE))

    def read(self, work: Callable[[Any], _Result]) -> _Result:
        """Run `work`, which only reads, on a cursor in one transaction of one moment. Waits for no writer."""
        try:
            return self._attempt(work, True, self.snapshot)
        except (_Contended, Refused) as error:
            raise StoreUnavailable(
                f"the store {self.label} cannot be read: {error}", remedy="it is tried again"
            ) from error

    def refuses(self, error: BaseException) -> bool:
        return self.verdict(error) is Verdict.REFUSED

    def close(self) -> None:
        """Close the connection. Idempotent."""
        connection, self._connection, self._current = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(Exception):  # what cannot be closed is gone already
                connection.close()

    def _attempt(self, work: Callable[[Any], _Result], checked: bool, begin: Sequence[str] = ()) -> _Result:
        with self._faults():
            if self._connection is None:
                self._connection = self._connected()
            else:
                self._check()
            if checked and not self._current:
                self._within(self._make_current)
                self._current = True
            result = self._within(work, begin)
        self._check()
        return result

    def _connected(self) -> Any:
        try:
            return self._connect()
        except StoreError:
            raise
        except Exception as error:  # here no value of a message can be at fault
            raise self.fault(error) from error

    def _within(self, work: Callable[[Any], _Result], begin: Sequence[str] = ()) -> _Result:
        cursor = self._connection.cursor()
        for statement in begin or (self.begin,):
            cursor.execute(statement)
        try:
            result = work(cursor)
            self._commit()
        except BaseException:
            self._roll_back(cursor)
            raise
        return result

    def _commit(self) -> None:
        if self._lost_transaction():
            raise StoreUnavailable(
                f"the store {self.label} rolled the transaction back by itself", remedy="it is tried again"
            )
        self._connection.commit()

    def _roll_back(self, cursor: Any) -> None:
        """A connection on which even that fails is of no more use."""
        try:
            cursor.execute("ROLLBACK")
        except Exception:  # noqa: BLE001 - the error that led here is the one to report
            self.close()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns what the driver raises into our errors."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            verdict = self.verdict(error)
            if verdict is Verdict.REFUSED:
                raise Refused(f"{type(error).__name__}: {error}") from error
            if verdict is Verdict.CONTENDED:
                raise _Contended(f"{type(error).__name__}: {error}") from error
            fault = self.fault(error)
            if not self.trusts(error):
                self.close()
            raise fault from error

    # --- the schema ---------------------------------------------------------------------------------

    def _look(self, cursor: Any) -> int:
        version = migrations.version_of(cursor, self.dialect)
        if version and not self.migrates_itself:
            migrations.require_current(cursor, self.dialect)
        return version

    def _make_current(self, cursor: Any) -> None:
        if self.migrates_itself or migrations.version_of(cursor, self.dialect) == 0:
            self._migrate(cursor)
        else:
            migrations.require_current(cursor, self.dialect)

    def _migrate(self, cursor: Any) -> list[str]:
        with self.alone(cursor):
            statements = migrations.pending(cursor, self.dialect, now_ms())
            for statement in statements:
                cursor.execute(statement)
        return statements


class _Contended(Exception):
    """Internal: the transaction is rolled back and has to be done again."""


def now_ms() -> int:
    """This host's clock, epoch ms."""
    return time.time_ns() // 1_000_000
