from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jst_bridge.ops import progress, summary
from jst_bridge.ops.logging import configure
from jst_bridge.ops.progress import Progress, Snapshot
from jst_bridge.ops.text import escaped, masked, short
from jst_bridge.ports import Landed

HOSTILE = "a[/b]\x1b[31m\x00\u202e\x9b2J\nend"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


class TestText:
    def test_controls_are_written_as_escapes_and_brackets_stay(self) -> None:
        assert escaped(HOSTILE) == r"a[/b]\x1b[31m\x00\u202e\x9b2J\nend"
        assert escaped("a\tb\nc\x1b", lines=True) == "a\tb\nc\\x1b"

    @given(st.text(st.characters()))
    def test_whatever_comes_can_be_encoded_and_is_printable_or_a_blank(self, text: str) -> None:
        safe = escaped(text)
        safe.encode()
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", safe)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("快递员13812345678已揽收", "快递员138****5678已揽收"),
            ("+86 138-1234-5678", "+86 138****5678"),
            ("电话010-12345678。", "电话010****78。"),
            ("mail wang.li@example.com now", "mail w***@example.com now"),
            ("order 1381234567812345678", "order 1381234567812345678"),
            ("waybill YT13812345678", "waybill YT13812345678"),
        ],
    )
    def test_phone_numbers_and_addresses_lose_their_middle_but_ids_stay(
        self, text: str, expected: str
    ) -> None:
        assert masked(text) == expected

    def test_what_is_too_long_ends_in_an_ellipsis(self) -> None:
        assert (short("abcdef", 4), short("abcd", 4)) == ("abc…", "abcd")


class TestLogging:
    def test_is_one_json_object_a_line_where_there_is_no_terminal(self) -> None:
        stream = io.StringIO()
        configure("info", "auto", stream)
        structlog.get_logger("bridge").info("landed", count=3, seller=HOSTILE, ids=["1", "\x1b"])
        logging.getLogger("stdlib").warning("lost %s", "\x1bhost", extra={"port": 9876})
        structlog.get_logger("bridge").debug("hidden")
        first, second = (json.loads(line) for line in stream.getvalue().splitlines())
        assert first["event"] == "landed"
        assert (first["level"], first["logger"], first["count"]) == ("info", "bridge", 3)
        assert first["seller"] == escaped(HOSTILE)
        assert first["ids"] == ["1", "\\x1b"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["timestamp"])
        assert (second["event"], second["logger"], second["port"]) == ("lost \\x1bhost", "stdlib", 9876)

    def test_keeps_a_traceback_in_its_line_and_shows_no_local_variables(self) -> None:
        for format in ("json", "text"):
            stream = io.StringIO()
            configure("info", format, stream)
            secret = "c4nary"
            try:
                raise RuntimeError(f"broke {len(secret)}")
            except RuntimeError:
                structlog.get_logger("bridge").exception("failed")
            assert "RuntimeError: broke 6" in stream.getvalue()
            assert stream.getvalue().count("c4nary") == stream.getvalue().count('secret = "c4nary"')
            assert len(stream.getvalue().splitlines()) == 1 or format == "text"

    def test_on_a_terminal_is_coloured_unless_told_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        for no_color, coloured in (("", True), ("1", False)):
            monkeypatch.setenv("NO_COLOR", no_color)
            stream = Terminal()
            configure("info", "auto", stream)
            structlog.get_logger("bridge").warning("gap", seller=HOSTILE)
            text = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue())
            assert ("\x1b" in stream.getvalue()) == coloured
            assert "gap" in text
            assert escaped(HOSTILE) in text

    def test_follows_stderr_where_it_goes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        configure("info", "json")
        elsewhere = io.StringIO()
        monkeypatch.setattr(sys, "stderr", elsewhere)
        structlog.get_logger("bridge").info("moved")
        assert json.loads(elsewhere.getvalue())["event"] == "moved"

    def test_set_up_twice_still_says_everything_once(self) -> None:
        stream = io.StringIO()
        configure("info", "json", stream)
        configure("info", "json", stream)
        structlog.get_logger("bridge").info("once")
        assert len(stream.getvalue().splitlines()) == 1


class TestProgress:
    def test_is_one_live_line_on_a_terminal(self) -> None:
        stream = Terminal()
        console = Console(file=stream, force_terminal=True, width=80, color_system=None)
        shown = threading.Event()
        calls: list[None] = []

        def take() -> Snapshot:
            calls.append(None)
            if len(calls) > 2:
                shown.set()
            return Snapshot(Landed(landed=1234, duplicates=5, dead_letters=1), "consuming\x1b", 7)

        with Progress(console, interval=0.01) as live:
            live.watch(take)
            assert shown.wait(20)
        assert "consuming\\x1b: 1,234 landed · 5 duplicates · 1 dead letters" in stream.getvalue()
        assert "lag 7" in stream.getvalue()
        total = live.total()
        assert total is not None
        assert total.landed == 1234

    def test_is_a_log_line_elsewhere(self) -> None:
        stream = io.StringIO()
        configure("info", "json", stream)
        calls: list[None] = []
        shown = threading.Event()

        def take() -> Snapshot:
            calls.append(None)
            if len(calls) > 1:
                shown.set()
            return Snapshot(Landed(landed=10), "consuming")

        with Progress(Console(file=io.StringIO()), interval=0.01) as quiet:
            quiet.watch(take)
            assert shown.wait(20)
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        watched = [line for line in lines if line["landed"] == 10]
        assert watched
        assert watched[0]["event"] == "progress"
        assert watched[0]["state"] == "consuming"
        assert "lag" not in watched[0]

    def test_that_fails_ends_the_display_and_not_the_run(self) -> None:
        stream = io.StringIO()
        configure("info", "json", stream)
        failed = threading.Event()

        def take() -> Snapshot:
            failed.set()
            raise RuntimeError("no")

        with Progress(Console(file=io.StringIO()), interval=0.01) as broken:
            broken.watch(take)
            assert failed.wait(20)
        assert json.loads(stream.getvalue().splitlines()[-1])["event"] == "progress_failed"

    def test_of_a_run_that_has_nothing_to_show_yet_is_starting(self) -> None:
        stream = io.StringIO()
        with Progress(Console(file=stream)) as progress:
            assert progress.total() is None

    @given(
        st.integers(0, 10**12),
        st.integers(0, 10**12),
        st.text(max_size=200),
        st.integers(20, 200),
        st.floats(0, 1e9),
    )
    def test_never_wraps(self, landed: int, lag: int, state: str, width: int, rate: float) -> None:
        text = progress.line(Snapshot(Landed(landed=landed, gaps=1), state, lag), rate, width)
        assert text.cell_len <= width
        assert "\n" not in text.plain


class TestSummary:
    TOTAL = Landed(
        landed=1200,
        duplicates=30,
        dead_letters=2,
        gaps=1,
        topics={"taobao_trade_TradeBuyerPay": 1000, "b\x1b": 200},
    )

    def test_for_programs_has_every_count(self) -> None:
        assert summary.record(self.TOTAL, 2.0) == {
            "event": "summary",
            "landed": 1200,
            "duplicates": 30,
            "dead_letters": 2,
            "gaps": 1,
            "collisions": 0,
            "without_id": 0,
            "redone": 0,
            "seconds": 2.0,
            "rate": 615.0,
            "topics": {"taobao_trade_TradeBuyerPay": 1000, "b\x1b": 200},
        }

    def test_for_people_fits_into_80_columns(self) -> None:
        stream = io.StringIO()
        topics = {"taobao_" + "x" * 120: 5, **self.TOTAL.topics}
        total = Landed(landed=10**9, collisions=1, without_id=1, redone=7, topics=topics)
        Console(file=stream, width=80).print(summary.table(total, 3725.5))
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert any(line.split() == ["landed", "1,000,000,000"] for line in lines)
        assert any(line.split() == ["transactions", "redone", "7"] for line in lines)
        assert any("1 h 02 min 06 s" in line for line in lines)
        assert any(line.split() == ["taobao_trade_TradeBuyerPay", "1,000"] for line in lines)
        assert any("b\\x1b" in line for line in lines)

    def test_of_no_time_has_no_rate(self) -> None:
        assert summary.record(Landed(), 0.0)["rate"] == 0.0
