"""How single values are written in the configuration: checked, and turned into what the program uses.

Every function raises ValueError with a sentence that continues "this key ..." and says what to write instead.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from pydantic import AfterValidator

BEIJING = timezone(timedelta(hours=8), "Beijing")
"""China has had one zone and no daylight saving since 1991: a fixed offset needs no time zone data."""

_SPAN = re.compile(r"(\d{1,9})\s*([smhdw])")
_SPAN_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")


def span(text: str) -> timedelta:
    """A length of time as people write it: 30s, 15m, 2h, 30d, 4w. Raises ValueError."""
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("must be a number and a unit (s, m, h, d or w), such as 30d")
    try:
        return timedelta(**{_SPAN_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise ValueError("is longer than a calendar can hold; write fewer days") from None


def instant(text: str) -> datetime:
    """An ISO 8601 time, aware; without a zone it is Beijing time. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            "must be an ISO 8601 time, such as 2026-01-31T08:00 (Beijing) or 2026-01-31T00:00Z"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=BEIJING)


def app_key(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,32}", text):
        raise ValueError('must be the digits of the app key, such as key = "12345678"')
    return text


def gateway(url: str) -> str:
    """Neither a user nor a query: they would be shown and logged."""
    match = re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?(/[!-~]*)?", url)
    if match is None or re.search(r"[@?#]", url):
        raise ValueError("must be a plain URL such as https://eco.taobao.com/router/rest")
    if match[2] is not None and not 0 < int(match[2][1:]) < 65536:
        raise ValueError("must have a port from 1 to 65535")
    return url


def store_url(url: str) -> str:
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        if not re.fullmatch(r"sqlite:///[^?]*[^?/]", url) or url.endswith("/:memory:"):
            raise ValueError("must name a file and nothing else, such as sqlite:///jst-bridge.db")
    elif scheme not in ("postgresql", "postgres", "mysql", "mariadb"):
        raise ValueError("must begin with sqlite:///, postgresql:// or mysql://")
    elif not re.fullmatch(r"[a-z0-9+]+://[^/?]*/[^/?]+(\?.*)?", url):
        raise ValueError(f"must be like {scheme}://user@host:port/database")
    return url


def keep_messages(value: object) -> object:
    if value == "forever":
        return None
    try:
        kept = span(str(value))
    except ValueError as error:
        raise ValueError(f'{error}, or "forever"') from None
    if kept < timedelta(days=7):
        raise ValueError(
            "must be at least 7d: the broker may redeliver a message for days, and its key is what absorbs that"
        )
    return kept


def size(value: object) -> object:
    match = re.fullmatch(r"\s*(\d{1,12})\s*(KiB|MiB)\s*", value) if isinstance(value, str) else None
    return int(match[1]) << {"KiB": 10, "MiB": 20}[match[2]] if match else value


def name_servers(value: object) -> object:
    """RocketMQ itself writes several servers as one text with semicolons; a variable has no other way."""
    return (
        [part.strip() for part in re.split("[;,]", value) if part.strip()]
        if isinstance(value, str)
        else value
    )


def name_server(text: str) -> str:
    """An address, or the URL of an address server; `http://host:port` means an address in Java's settings."""
    if "//" not in text:
        return address(text)
    if not re.fullmatch(
        r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?/[!-~]+", text
    ) or re.search("[@#]", text):
        raise ValueError(
            "must be host:port, without http://, or the whole URL of an address server, such as "
            "http://mq.example.com/rocketmq/nsaddr"
        )
    return text


def one_url(servers: tuple[str, ...]) -> tuple[str, ...]:
    if len(servers) > 1 and any("//" in server for server in servers):
        raise ValueError("must hold the URL of one address server alone, or addresses (host:port) only")
    return servers


def address_map(table: dict[str, str]) -> dict[str, str]:
    for advertised, reachable in table.items():
        for text in (advertised, reachable):
            try:
                # A host alone stands for each of its ports.
                address(text if re.search(r":[0-9]+$", text) and not text.endswith("]") else f"{text}:1")
            except ValueError:
                raise ValueError(
                    f'has an entry "{advertised}" = "{reachable}"; write each side as host:port or host, such as '
                    '"10.0.0.5:10911" = "broker.example.com:10911"'
                ) from None
    return table


def namespace(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", name):
        raise ValueError(
            "must be the instance's id, such as MQ_INST_1234567890_Bcdefghi: letters, digits, _ and -"
        )
    return name


def host_name(name: str) -> str:
    if name and not _HOST.fullmatch(name):
        raise ValueError("must be a host name or an address without a port, such as mq.example.com")
    return name


def readable(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}; make the file, or let this user read it"
        ) from None


def address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("must be host:port with a port from 1 to 65535, such as 127.0.0.1:9876")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError("has no IPv6 address within the brackets; write it like [::1]:9876") from None
    elif ":" in host:
        raise ValueError("must have its IPv6 address in brackets, like [::1]:9876")
    elif not _HOST.fullmatch(host):
        raise ValueError("must begin with a host name or an address, such as mq.example.com:9876")
    return text


def rocketmq_name(longest: int) -> AfterValidator:
    def check(name: str) -> str:
        if not re.fullmatch(r"[%|A-Za-z0-9_-]+", name):
            raise ValueError("may hold letters, digits and % | _ - only, and not be empty (RocketMQ's rule)")
        if len(name) > longest:
            raise ValueError(f"must be at most {longest} characters long (RocketMQ's rule)")
        return name

    return AfterValidator(check)


def tags(expression: str) -> str:
    single = [tag.strip() for tag in expression.split("||")]
    if single == ["*"]:
        return "*"
    if not all(re.fullmatch(r"[^\s|*]+", tag) for tag in single):
        raise ValueError(
            'must be "*" or message types joined by ||, such as "taobao_trade_TradeBuyerPay || B"'
        )
    return " || ".join(single)


def start_from(value: object) -> object:
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=BEIJING)
    if isinstance(value, str) and value in ("first", "last"):
        return value
    if isinstance(value, str | date):
        try:
            return instant(str(value))
        except ValueError as error:
            raise ValueError(f'must be "first", "last" or a time: {error}') from None
    raise ValueError('must be "first", "last" or an ISO 8601 time')


def source_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise ValueError("must be 1 to 64 letters, digits, _ . or -")
    return name


def instance(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,48}", name):
        raise ValueError('must be 1 to 48 letters, digits, _ . or -, such as "ecs-1"')
    return name
