"""What operators do to a consumer group from outside: look at its offsets, members and messages, and move offsets.

Nothing here joins a group. `SourceGroup` says whose group it is; the modules say what can be asked of it.
"""

from __future__ import annotations

from jst_bridge.operations.group import SourceGroup

__all__ = ["SourceGroup"]
