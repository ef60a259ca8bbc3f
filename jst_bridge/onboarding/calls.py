"""What an error of the platform means for a job of many calls."""

from __future__ import annotations

from typing import Final, TypeVar

from jst_bridge.errors import JstBridgeError
from jst_bridge.top.errors import (
    AppRefused,
    Banned,
    ClockSkewed,
    PermissionRefused,
    RequestRefused,
    TopError,
)

__all__ = ["MOST_FAULTS_IN_A_ROW", "NotKnown", "amended", "ends_everything"]

MOST_FAULTS_IN_A_ROW: Final = 10
"""Calls that fail one after the other, each after its retries, before a job of many gives up."""
_OF_THE_APP: Final = frozenset({11, 13})
_OF_THE_CALLER: Final = frozenset({3, 9, 21, 22, 23, 32, 33, 34})
"""Codes that say nothing of the seller or the arguments: the next call would get the same."""

_Error = TypeVar("_Error", bound=JstBridgeError)


class NotKnown(JstBridgeError):
    """The platform does not know the seller."""

    exit_code = 1


def ends_everything(error: TopError) -> bool:
    """Whether every other call would fail like this one: keys, clock, permissions of the app, a long ban."""
    if isinstance(error, PermissionRefused):
        return error.code in _OF_THE_APP
    if isinstance(error, RequestRefused):
        return error.code in _OF_THE_CALLER
    return isinstance(error, AppRefused | ClockSkewed | Banned)


def amended(error: _Error, before: str, remedy: str) -> _Error:
    """The same error, which says what had been done before it, and what to do besides its own remedy."""
    error.args = (f"{before}: {error.args[0]}",)
    error.remedy = "\n".join(line for line in (error.remedy, remedy) if line)
    return error
