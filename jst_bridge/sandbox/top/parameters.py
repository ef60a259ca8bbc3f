"""From the bytes of a request to its parameters (reference 2.1 and 2.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Final
from urllib.parse import parse_qsl

from .refusals import Refused, typical

__all__ = ["BEIJING", "instant", "read_parameters", "wants_json", "wants_simple", "written"]

BEIJING: Final = timezone(timedelta(hours=8))
_MOST_PARAMETERS: Final = 200
_WRITTEN: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_EPOCH_MS: Final = re.compile(r"[0-9]{12,14}")


def read_parameters(query: bytes, content_type: str, body: bytes) -> dict[str, str]:
    """The query and the form as one; of a name given twice, the first counts. Raises Refused."""
    if content_type.lower().startswith("multipart/"):
        raise Refused(typical(3, sub_msg="the sandbox takes no multipart bodies"))
    merged: dict[str, str] = {}
    for part in (query, body):
        for name, value in _pairs(part):
            merged.setdefault(name, value)
    return merged


def _pairs(form: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            form.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except UnicodeDecodeError as error:
        raise Refused(typical(47)) from error
    except ValueError as error:
        raise Refused(typical(43, sub_msg=f"at most {_MOST_PARAMETERS} parameters")) from error


def instant(text: str) -> float | None:
    """`yyyy-MM-dd HH:mm:ss` in Beijing, or epoch milliseconds, as epoch seconds; None when it is neither."""
    if _EPOCH_MS.fullmatch(text):
        return int(text) / 1000
    if not _WRITTEN.fullmatch(text):
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=BEIJING).timestamp()
    except (ValueError, OverflowError):
        return None


def written(moment: float) -> str:
    """Epoch seconds as the platform writes them."""
    return datetime.fromtimestamp(moment, BEIJING).strftime("%Y-%m-%d %H:%M:%S")


def wants_json(parameters: Mapping[str, str]) -> bool:
    """XML is the default, also of a request whose format is refused."""
    return parameters.get("format") == "json"


def wants_simple(parameters: Mapping[str, str]) -> bool:
    """`simplify` counts with JSON only (reference 5.3)."""
    return wants_json(parameters) and parameters.get("simplify") == "true"
