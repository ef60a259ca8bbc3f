"""The fixture `jst_sandbox` for the tests of programs that read what jst-bridge lands.

Installed with jst-bridge, pytest finds it by itself. It costs nothing until a test asks for it; a test that does
takes about a second more, for a platform and a bridge of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .harness import SandboxHarness

__all__ = ["jst_sandbox"]


@pytest.fixture
def jst_sandbox(tmp_path: Path) -> Iterator[SandboxHarness]:
    """A bridge of this test's own, with an empty store, that lands what the test publishes; see `SandboxHarness`."""
    from .harness import SandboxHarness

    with SandboxHarness(tmp_path) as sandbox:
        yield sandbox
