"""The samples seen in the wild, as the bodies a broker would carry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Sample", "samples"]

DIRECTORY = Path(__file__).parent / "data" / "samples"
ENVELOPED = {"ons", "tmc_http", "tmc_ws", "tmc_sdk"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One body with the tag and keys it would travel with."""

    name: str
    tag: str
    keys: str
    body: bytes
    lands: bool
    """False: a dead letter."""

    def line(self, system_topic: str) -> dict[str, object]:
        """As the Java publisher takes it."""
        return {"topic": system_topic, "tag": self.tag, "keys": self.keys, "body": self.body.decode()}


def samples() -> list[Sample]:
    """All of them, in the order of the files."""
    found = []
    for file in sorted(DIRECTORY.glob("*.json")):
        for index, entry in enumerate(json.loads(file.read_text(encoding="utf-8"))):
            found.append(_sample(f"{file.stem}[{index}]", entry))
    return found


def _sample(name: str, entry: dict[str, Any]) -> Sample:
    kind, content = entry["kind"], entry["content"]
    tag = "" if entry["topic"].startswith("(") else entry["topic"]
    if kind in ENVELOPED:
        body = json.dumps({**entry["envelope"], "content": content}, ensure_ascii=False)
    elif kind == "comet_notify":
        body = json.dumps(
            {entry["envelope"]["wrapper"]: json.loads(content, strict=False)}, ensure_ascii=False
        )
    else:
        body = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    fields = content if isinstance(content, dict) else json.loads(content, strict=False)
    lands = kind not in ("jdp", "outgoing")
    return Sample(f"{name} {kind}", tag, str(fields.get("tid", "")), body.encode(), lands)
