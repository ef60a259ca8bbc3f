"""Settings that cannot be used, and values as the platform reads them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import pytest

from jst_bridge.errors import ConfigurationError
from jst_bridge.top import TopSettings
from jst_bridge.top.errors import InvalidArgument
from jst_bridge.top.parameters import Call, wire_text


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Shanghai", "Pacific/Chatham"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    os.environ.pop("TZ") if before is None else os.environ.__setitem__("TZ", before)
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_the_machines_zone_has_no_part_in_the_timestamp() -> None:
    body = Call.of("taobao.x.get", {}).signed(TopSettings("1", "secret"), 1_451_620_800.0).body
    assert dict(parse_qsl(body.decode()))["timestamp"] == "2016-01-01 12:00:00"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        (True, "true"),
        (False, "false"),
        (2918000000000000001, "2918000000000000001"),
        (Decimal("1E+2"), "100"),
        (Decimal("9.50"), "9.50"),
        (["vip1", "普通组"], "vip1,普通组"),
        ((1, 2), "1,2"),
        ({"a": "商", "b": [1]}, '{"a":"商","b":[1]}'),
        ([{"a": 1}, {"a": 2}], '[{"a":1},{"a":2}]'),
        (datetime(2016, 1, 1, 4, tzinfo=UTC), "2016-01-01 12:00:00"),
        (None, None),
        ("", None),
        ([], None),
    ],
)
def test_a_value_is_written_as_the_platform_reads_it(value: object, text: str | None) -> None:
    assert wire_text(value) == text


NESTED: list[Any] = []
NESTED.append(NESTED)


@pytest.mark.parametrize(
    "value",
    [b"x", 1.5, object(), Decimal("NaN"), datetime(2016, 1, 1), ["a,b"], [""], {"a": object()}, {"a": float("nan")},
     NESTED, "\ud800", ["ok", "\udfff"]],
)  # fmt: skip
def test_a_value_that_cannot_be_sent_is_refused_here(value: object) -> None:
    with pytest.raises(InvalidArgument):
        wire_text(value)


@pytest.mark.parametrize(
    "name", ["sign", "app_key", "timestamp", "access_token", "simplify", "", "a b", "名"]
)
def test_a_parameter_cannot_take_a_system_name(name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be a parameter"):
        Call.of("taobao.x.get", {name: "1"})


@pytest.mark.parametrize("method", ["", "\ud800"])
def test_a_method_that_cannot_be_written_is_refused(method: str) -> None:
    with pytest.raises(InvalidArgument):
        Call.of(method, {})


def test_empty_values_are_never_sent() -> None:
    assert dict(Call.of("taobao.x.get", {"a": "", "b": None, "c": 0}).parameters) == {"c": "0"}


@pytest.mark.parametrize(
    "changes",
    [
        {"app_key": ""},
        {"app_key": "12 34"},
        {"secret": ""},
        {"secret": "\ud800"},
        {"sign_method": "sha1"},
        {"gateway": "eco.taobao.com/router/rest"},
        {"gateway": "ftp://eco.taobao.com/"},
        {"gateway": "https://user:hunter2@eco.taobao.com/router/rest"},
        {"gateway": "https://eco.taobao.com/router/rest?session=hunter2"},
        {"gateway": "https://eco.taobao.com:99999/"},
        {"gateway": "https://[::1/"},
        {"gateway": "https://eco.taobao.com/\nHost: x"},
        {"gateway": "https:///router/rest"},
        {"attempts": 0},
        {"read_timeout": float("nan")},
        {"calls_per_second": -1.0},
        {"ban_wait": -1.0},
    ],
)
def test_settings_that_cannot_be_used_are_a_configuration_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TopSettings(**({"app_key": "1", "secret": "hunter2"} | changes))
    assert "hunter2" not in str(caught.value) + caught.value.remedy
    assert caught.value.exit_code == 78
