"""From a seller's authorisation to flowing messages: what the platform is asked, and what the store remembers of it.

The commands `users`, `topics get` and `seller-groups` stand on this; it talks to nobody but the platform and the store.
"""

from .calls import NotKnown, ends_everything
from .importing import Import, Outcome, State
from .journal import Journal, Stage
from .opening import Added, Checked, add, check, delete
from .roster import (
    LONGEST_SESSION,
    Row,
    fault_of_group,
    fault_of_nick,
    fault_of_session,
    read_roster,
    split_topics,
)

__all__ = [
    "LONGEST_SESSION",
    "Added",
    "Checked",
    "Import",
    "Journal",
    "NotKnown",
    "Outcome",
    "Row",
    "Stage",
    "State",
    "add",
    "check",
    "delete",
    "ends_everything",
    "fault_of_group",
    "fault_of_nick",
    "fault_of_session",
    "read_roster",
    "split_topics",
]
