"""Logging: structlog and the standard library through one handler, to stderr.

A line has a UTC time with milliseconds, a level, a stable `event` word and facts; ids, never bodies. On a
terminal it is text for people, elsewhere one JSON object a line.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from jst_bridge.ops.text import escaped

__all__ = ["configure", "wants_colour"]

Format = Literal["auto", "json", "text"]

_CHATTY = ("httpx2", "httpcore2")
"""Libraries that log every request, at debug level with its headers."""


def configure(level: str = "info", format: Format = "auto", stream: TextIO | None = None) -> None:
    """Send every log line to `stream`, stderr by default. Calling it again replaces what was set before.

    Without `stream`, stderr is looked up for each line: the live progress may stand in front of it meanwhile.
    """
    target = stream if stream is not None else sys.stderr
    as_json = format == "json" or (format == "auto" and not target.isatty())
    handler = logging.StreamHandler(stream) if stream is not None else _StderrHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_FACTS,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(as_json=as_json, colours=wants_colour(target)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_FACTS,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour: a terminal, and neither NO_COLOR (https://no-color.org) nor TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stderr is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the parent has an attribute
        return sys.stderr


def _timestamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"timestamp": now, **event}


def _tame(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: _tamed(value, lines=key == "exception") for key, value in event.items()}


def _tamed(value: Any, *, lines: bool = False) -> Any:
    if isinstance(value, str):
        return escaped(value, lines=lines)
    if isinstance(value, dict):
        return {escaped(str(key)): _tamed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tamed(item) for item in value]
    return value if isinstance(value, int | float | None) else escaped(str(value))


_FACTS: list[Processor] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    _timestamp,
]


def _rendering(*, as_json: bool, colours: bool) -> list[Processor]:
    # Not structlog's rich tracebacks: they show local variables, and those may hold a secret.
    common: list[Processor] = [structlog.processors.format_exc_info, _tame]
    if as_json:
        order = structlog.processors.EventRenamer("event")
        return [*common, order, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return [*common, structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=24)]
