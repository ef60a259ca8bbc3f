from __future__ import annotations

import contextlib
import pickle
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jst_bridge.errors import ConfigurationError
from jst_bridge.settings import BEIJING, RocketmqSource, Run, Settings, Tls, instant, load, span

CANARY = "c4nary-5ecret"
APP = '[app]\nkey = "12345678"\n'
SOURCE = '[[source]]\ntype = "rocketmq"\nname_servers = ["127.0.0.1:9876"]\ngroup = "GID_bridge"\n'
CONF = Path(__file__).parents[2] / "conf"


def write(directory: Path, text: str, name: str = "jst-bridge.toml") -> str:
    file = directory / name
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    return str(file)


def problems(path: str | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(path, environ or {})
    assert caught.value.exit_code == 78
    assert caught.value.remedy
    return str(caught.value).replace(str(Path(path or ".").parent) + "/", "").splitlines()


def test_the_minimal_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    settings = load(write(tmp_path, APP + SOURCE), {})
    (source,) = settings.source
    assert (source.name, source.system_topic) == ("rocketmq", "rmq_sys_jst_12345678")
    assert (source.tags, source.start_from, source.channel, source.mode) == (
        "*",
        "first",
        "CLOUD",
        "clustering",
    )
    assert settings.app.secret is None
    run = settings.run
    assert (run.stop_deadline, run.max_batch_messages, run.max_batch_bytes) == (10, 2000, 4 << 20)
    assert (run.log_level, run.log_format) == ("info", "auto")


def test_the_commented_example_is_the_minimal_file_with_every_default_written_out(tmp_path: Path) -> None:
    text = (CONF / "jst-bridge.toml").read_text(encoding="utf-8")
    (tmp_path / "secret").write_text("s\n")
    text = text.replace("/run/secrets/jst-bridge-app", str(tmp_path / "secret"))
    example = load(write(tmp_path, text), {})
    minimal = load(write(tmp_path, APP + SOURCE), {})
    assert example.store == minimal.store
    assert example.run == minimal.run
    assert example.source == (minimal.source[0].model_copy(update={"name": "jushita"}),)


def test_the_example_names_every_key_there_is() -> None:
    text = (CONF / "jst-bridge.toml").read_text(encoding="utf-8")
    tables = [field.annotation for field in Settings.model_fields.values()]
    for model in (*tables, RocketmqSource, Tls):
        for key in getattr(model, "model_fields", {}):
            assert f"{key} = " in text, f"{key} is not explained"


def test_the_service_gives_a_stop_more_time_than_its_deadline_and_never_names_the_secret() -> None:
    unit = (CONF / "jst-bridge.service").read_text(encoding="utf-8")
    seconds = int(unit.partition("TimeoutStopSec=")[2].split()[0])
    assert seconds > Run().stop_deadline
    assert "JST_APP__SECRET_FILE=%d/" in unit
    assert "JST_APP__SECRET=" not in unit


class TestFile:
    def test_is_looked_for_in_the_argument_then_the_variable_then_the_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write(tmp_path, '[app]\nkey = "1"')
        second = write(tmp_path, '[app]\nkey = "2"', "second.toml")
        third = write(tmp_path, '[app]\nkey = "3"', "third.toml")
        assert load(None, {}).app.key == "1"
        assert load(None, {"JST_BRIDGE_CONFIG": second}).app.key == "2"
        assert load(third, {"JST_BRIDGE_CONFIG": second}).app.key == "3"

    def test_may_be_missing_when_the_environment_says_what_is_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        settings = load(None, {"JST_APP__KEY": "77"})
        assert settings.app.key == "77"
        assert settings.file is None
        assert settings.store.url == f"sqlite:///{tmp_path}/jst-bridge.db"

    def test_missing_with_nothing_in_the_environment_names_the_three_ways(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigurationError, match="no configuration") as caught:
            load(None, {})
        assert "-c FILE" in caught.value.remedy
        assert "$JST_BRIDGE_CONFIG" in caught.value.remedy
        assert "JST_APP__KEY" in caught.value.remedy

    def test_that_was_named_must_be_there(self, tmp_path: Path) -> None:
        assert problems(str(tmp_path / "no.toml")) == ["no.toml: there is no such file"]
        assert problems(None, {"JST_BRIDGE_CONFIG": "/no/such.toml", "JST_APP__KEY": "1"}) == [
            "/no/such.toml: there is no such file"
        ]

    def test_that_is_a_directory_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
            load(str(tmp_path), {})

    def test_with_a_syntax_error_is_refused_with_line_and_column(self, tmp_path: Path) -> None:
        (line,) = problems(write(tmp_path, '[app]\nkey = "1"\nsecret c4nary-5ecret\n'))
        assert line.startswith("jst-bridge.toml: is not TOML: ")
        assert "line 3, column 8" in line
        assert CANARY not in line

    def test_in_another_encoding_is_refused_with_the_line(self, tmp_path: Path) -> None:
        file = tmp_path / "gbk.toml"
        file.write_bytes('[app]\n# 订单\nkey = "1"'.encode("gbk"))
        assert problems(str(file)) == ["gbk.toml: line 2 is not UTF-8"]

    def test_saved_by_a_windows_editor_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "bom.toml"
        file.write_bytes(b"\xef\xbb\xbf" + APP.replace("\n", "\r\n").encode())
        assert load(str(file), {}).app.key == "12345678"


class TestPaths:
    def test_of_the_store_start_at_the_file(self, tmp_path: Path) -> None:
        for url, path in [("sqlite:///a.db", f"{tmp_path}/a.db"), ("sqlite:////var/a.db", "/var/a.db")]:
            settings = load(write(tmp_path, f'{APP}[store]\nurl = "{url}"'), {})
            assert settings.store.url == f"sqlite:///{path}"

    def test_of_the_secret_start_at_the_file(self, tmp_path: Path) -> None:
        write(tmp_path, CANARY + "\n\n", "app.secret")
        settings = load(write(tmp_path, APP + 'secret_file = "app.secret"'), {})
        assert settings.app.secret is not None
        assert settings.app.secret.get_secret_value() == CANARY + "\n", "one newline is taken off, not all"
        assert settings.app.secret_file == tmp_path / "app.secret"


class TestEnvironment:
    def test_overrides_single_keys(self, tmp_path: Path) -> None:
        settings = load(
            write(tmp_path, APP + SOURCE),
            {
                "JST_APP__SECRET": CANARY,
                "JST_RUN__LEAVE_AFTER": "90",
                "JST_RUN__MAX_BATCH_MESSAGES": "10",
                "JST_RUN__LOG_FORMAT": "json",
                "JST_SOURCE__0__NAME_SERVERS": "mq1:9876;[::1]:9877",
                "jst_source__0__start_from": "last",
            },
        )
        assert settings.app.key == "12345678"
        assert settings.app.secret is not None
        assert settings.app.secret.get_secret_value() == CANARY
        assert settings.run.leave_after == 90
        assert (settings.run.max_batch_messages, settings.run.log_format) == (10, "json")
        assert settings.source[0].name_servers == ("mq1:9876", "[::1]:9877")
        assert (settings.source[0].group, settings.source[0].start_from) == ("GID_bridge", "last")

    def test_alone_can_say_everything(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        one = {
            "JST_APP__KEY": "1",
            "JST_SOURCE__0__TYPE": "rocketmq",
            "JST_SOURCE__0__NAME_SERVERS": "mq:9876",
            "JST_SOURCE__0__GROUP": "GID_x",
        }
        other = {
            "JST_APP__KEY": "1",
            "JST_SOURCE": '[{"type": "rocketmq", "name_servers": ["mq:9876"], "group": "GID_x"}]',
        }
        assert load(None, one) == load(None, other)

    def test_keeps_digits_as_text(self, tmp_path: Path) -> None:
        settings = load(write(tmp_path, APP), {"JST_APP__KEY": "0123", "JST_APP__SECRET": "1e5"})
        assert settings.app.key == "0123"
        assert settings.app.secret is not None
        assert settings.app.secret.get_secret_value() == "1e5"

    def test_says_nothing_where_it_is_empty(self, tmp_path: Path) -> None:
        assert load(write(tmp_path, APP), {"JST_APP__KEY": "", "JST_APP__SECRET": ""}).app.key == "12345678"

    def test_wins_over_the_secret_of_the_file_whatever_its_form(self, tmp_path: Path) -> None:
        inline = write(tmp_path, APP + 'secret = "old"')
        by_file = write(tmp_path, APP + 'secret_file = "missing"', "f.toml")
        new = write(tmp_path, CANARY, "new.secret")
        for settings in (
            load(inline, {"JST_APP__SECRET_FILE": new}),
            load(by_file, {"JST_APP__SECRET": CANARY}),
            load(by_file, {"JST_APP__SECRET_FILE": new}),
        ):
            assert settings.app.secret is not None
            assert settings.app.secret.get_secret_value() == CANARY

    def test_is_named_in_problems_of_its_own(self, tmp_path: Path) -> None:
        environ = {
            "JST_STORE__URL": "sqlite://",
            "JST_APP__SECRT": CANARY,
            "JST_APPS__KEY": "1",
            "JST_DEBUG": "1",
        }
        lines = problems(write(tmp_path, APP), environ)
        assert lines == [
            "environment: JST_APPS__KEY: no such section; the sections are app, store, run, source",
            "environment: JST_APP__SECRT: unknown key; did you mean secret?",
            "environment: JST_STORE__URL: must name a file and nothing else, such as sqlite:///jst-bridge.db "
            '(it is "sqlite://")',
        ]

    def test_with_broken_json_names_the_variable(self, tmp_path: Path) -> None:
        assert problems(write(tmp_path, APP), {"JST_SOURCE": f"[{CANARY}"}) == [
            "environment: JST_SOURCE: is not JSON; set single keys with JST_SOURCE__... instead"
        ]


class TestStore:
    def test_the_password_of_a_server_comes_from_a_file_and_is_never_shown(self, tmp_path: Path) -> None:
        (tmp_path / "db.password").write_text(CANARY + "\n")
        text = '[store]\nurl = "postgresql://jst@db.example.com/bridge?sslmode=require"\npassword_file = "db.password"'
        settings = load(write(tmp_path, APP + text), {})
        url = "postgresql://jst@db.example.com/bridge?sslmode=require"
        assert settings.store.login == (url, CANARY)
        assert settings.store.shown_url == "postgresql://jst@db.example.com/bridge"
        assert CANARY not in repr(settings) + str(settings.warnings())

    def test_a_password_in_the_url_is_masked(self, tmp_path: Path) -> None:
        settings = load(write(tmp_path, APP + f'[store]\nurl = "mysql://jst:{CANARY}@h:3306/d"'), {})
        assert settings.store.shown_url == "mysql://jst:***@h:3306/d"
        assert CANARY not in repr(settings)

    def test_messages_are_kept_for_thirty_days_or_as_long_as_said(self, tmp_path: Path) -> None:
        def kept(text: str) -> timedelta | None:
            return load(write(tmp_path, APP + text), {}).store.keep_messages

        assert kept("") == timedelta(days=30)
        assert kept('[store]\nkeep_messages = "8w"') == timedelta(weeks=8)
        assert kept('[store]\nkeep_messages = "forever"') is None

    def test_keeping_for_ever_is_warned_about(self, tmp_path: Path) -> None:
        settings = load(write(tmp_path, APP + SOURCE + '[store]\nkeep_messages = "forever"'), {})
        assert any("keep_messages" in warning for warning in settings.warnings())


class TestProblems:
    def test_are_listed_all_at_once(self, tmp_path: Path) -> None:
        text = """
        [app]
        key = "twelve"
        secret_file = "none"
        [run]
        stop_deadline = 0
        log_format = "xml"
        [[source]]
        type = "rocketmq"
        name_server = ["127.0.0.1:9876"]
        name_servers = ["ok:1", "127.0.0.1"]
        """
        path = write(tmp_path, text)
        assert [line.replace(str(tmp_path) + "/", "") for line in problems(path)] == [
            "jst-bridge.toml: app.secret_file: none cannot be read: No such file or directory; "
            "make the file, or let this user read it",
            'jst-bridge.toml: app.key: must be the digits of the app key, such as key = "12345678" '
            '(it is "twelve")',
            "jst-bridge.toml: run.stop_deadline: must be greater than 0 (it is 0)",
            "jst-bridge.toml: run.log_format: must be 'auto', 'json' or 'text' (it is \"xml\")",
            "jst-bridge.toml: source[0].name_servers[1]: must be host:port with a port from 1 to 65535, "
            'such as 127.0.0.1:9876 (it is "127.0.0.1")',
            'jst-bridge.toml: source[0].group: is missing; add it, for example group = "GID_bridge"',
            "jst-bridge.toml: source[0].name_server: unknown key; did you mean name_servers?",
        ]

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("", "app: is missing; add [app]"),
            ("[app]", 'app.key: is missing; add it, for example key = "12345678"'),
            ("app = 'c4nary-5ecret'", "app: must be a valid dictionary or instance of App"),
            (APP + "[[sources]]\n", "sources: unknown key; did you mean source?"),
            (APP + 'zzz = "c4nary-5ecret"', "app.zzz: unknown key; known: key, secret, secret_file"),
            (APP + "secret = 5", "app.secret: must be a valid string"),
            (APP + 'secret = ""', "app.secret: "),
            (APP + 'secret = "a"\nsecret_file = "b"', "app.secret_file: is given together with app.secret; "),
            (APP + '[store]\nurl = "oracle://u:c4nary-5ecret@h/d"', "store.url: must begin with sqlite:///"),
            (
                APP + '[store]\nurl = "mysql://u:c4nary-5ecret@h"',
                "store.url: must be like mysql://user@host:port/",
            ),
            (APP + '[store]\npassword = "c4nary-5ecret"', "store.password: is of no use for SQLite"),
            (
                APP + '[store]\nurl = "mysql://u:x@h/d"\npassword = "c4nary-5ecret"',
                "store.password: is given together with one in store.url",
            ),
            (APP + '[store]\nkeep_messages = "6d"', "store.keep_messages: must be at least 7d"),
            (APP + "[store]\nkeep_messages = 30", "store.keep_messages: must be a number and a unit"),
            (
                APP + '[store]\nkeep_messages = "never"',
                'store.keep_messages: must be a number and a unit (s, m, h, d or w), such as 30d, or "forever"',
            ),
            (APP + '[store]\nurl = "sqlite://"', "store.url: must name a file"),
            (APP + '[store]\nurl = "sqlite:///:memory:"', "store.url: must name a file"),
            (APP + '[store]\nurl = "sqlite:///a.db?mode=ro"', "store.url: must name a file and nothing else"),
            (
                APP + "[run]\nmax_batch_messages = 0",
                "run.max_batch_messages: must be greater than or equal to 1",
            ),
            (APP + "[run]\nstop_deadline = nan", "run.stop_deadline: must be a finite number"),
            (APP + '[run]\nmax_batch_bytes = "1 GiB"', "run.max_batch_bytes: must be a valid integer"),
            (APP + '[[source]]\ntype = "mns"', "source[0].type: must be 'rocketmq' (it is \"mns\")"),
            (APP + SOURCE.replace('["127.0.0.1:9876"]', "[]"), "source[0].name_servers: must not be empty"),
            (APP + SOURCE.replace("GID_bridge", "GID bridge"), "source[0].group: may hold letters, digits"),
            (APP + SOURCE.replace("GID_bridge", "g" * 121), "source[0].group: must be at most 120"),
            (APP + SOURCE + f'system_topic = "{"t" * 128}"', "source[0].system_topic: must be at most 127"),
            (APP + SOURCE + 'name = "a b"', "source[0].name: must be 1 to 64 letters"),
            (APP + SOURCE + 'tags = "A ||"', 'source[0].tags: must be "*" or message types joined by ||'),
            (APP + SOURCE + 'tags = "* || A"', 'source[0].tags: must be "*"'),
            (
                APP + SOURCE + 'start_from = "latest"',
                'source[0].start_from: must be "first", "last" or a time',
            ),
            (APP + SOURCE + "start_from = 5", 'source[0].start_from: must be "first", "last" or an ISO'),
            (
                APP + SOURCE + 'mode = "cluster"',
                "source[0].mode: must be 'clustering' or 'broadcasting' (it is",
            ),
            (
                APP + SOURCE + 'mode = "broadcasting"',
                "source[0].instance: is missing; broadcasting needs a name",
            ),
            (APP + SOURCE + 'instance = "ecs-1"', 'source[0].instance: is for mode = "broadcasting" only'),
            (
                APP + SOURCE + 'mode = "broadcasting"\ninstance = "ecs 1"',
                "source[0].instance: must be 1 to 48 letters",
            ),
            (APP + SOURCE + SOURCE, "source: more than one source is named rocketmq; give each its own name"),
        ],
    )
    def test_name_the_key_and_say_what_to_do(self, tmp_path: Path, text: str, line: str) -> None:
        lines = problems(write(tmp_path, text))
        assert any(found.startswith(f"jst-bridge.toml: {line}") for found in lines), lines
        assert not any(CANARY in found for found in lines)

    @pytest.mark.parametrize("content", ["", "\n", "x" * 5000])
    def test_of_a_secret_file_without_one_secret(self, tmp_path: Path, content: str) -> None:
        write(tmp_path, content, "app.secret")
        (line,) = problems(write(tmp_path, APP + 'secret_file = "app.secret"'))
        assert "write only the secret into it" in line


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:9876", "mq.example.com:1", "rocketmq_namesrv:65535", "[::1]:9876", "[fe80::1%eth0]:9876"],
)
def test_addresses_of_every_kind_are_accepted(tmp_path: Path, address: str) -> None:
    assert load(write(tmp_path, APP + SOURCE.replace("127.0.0.1:9876", address)), {}).source[
        0
    ].name_servers == (address,)


@pytest.mark.parametrize(
    "address",
    [
        "mq",
        "mq:",
        "mq:0",
        "mq:65536",
        ":9876",
        "::1:9876",
        "[::g]:1",
        "http://mq:80",
        "a b:1",
        "-a:1",
        "mq:９",
    ],
)
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    (line,) = problems(write(tmp_path, APP + SOURCE.replace("127.0.0.1:9876", address)))
    assert line.startswith("jst-bridge.toml: source[0].name_servers[0]: ")


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ('"2026-01-31T08:00"', datetime(2026, 1, 31, tzinfo=UTC)),
        ('"2026-01-31 00:00:00Z"', datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T08:00:00", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T01:00:00+01:00", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 30, 16, tzinfo=UTC)),
    ],
)
def test_a_start_time_without_zone_is_beijing_time(tmp_path: Path, written: str, moment: datetime) -> None:
    (source,) = load(write(tmp_path, f"{APP}{SOURCE}start_from = {written}"), {}).source
    assert source.start_from == moment
    assert isinstance(source.start_from, datetime)
    assert source.start_from.tzinfo is not None


def test_tags_are_normalised_and_numbers_make_an_app_key(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "[app]\nkey = 77\n" + SOURCE + 'tags = " A||B ||  C "'), {})
    assert settings.source[0].tags == "A || B || C"
    assert settings.source[0].system_topic == "rmq_sys_jst_77"


def test_nothing_can_be_changed_afterwards(tmp_path: Path) -> None:
    settings = load(write(tmp_path, APP + SOURCE), {})
    with pytest.raises(ValidationError):
        settings.app.key = "2"
    with pytest.raises(ValidationError):
        settings.source[0].group = "2"


def test_a_secret_is_in_no_text_made_of_settings_or_of_their_errors(tmp_path: Path) -> None:
    settings = load(write(tmp_path, f'{APP}secret = "{CANARY}"\n{SOURCE}'), {})
    for text in (repr(settings), str(settings), settings.model_dump_json(), "\n".join(settings.warnings())):
        assert CANARY not in text
    path = write(
        tmp_path,
        f'[app]\nkey = "x"\nsecret = "{CANARY}"\nsecert = "{CANARY}"\n[store]\nurl = "pg://u:{CANARY}@h/d"',
    )
    with pytest.raises(ConfigurationError) as caught:
        load(path, {"JST_RUN__LOG_LEVEL": "loud"})
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert CANARY.encode() not in pickle.dumps(traceback.TracebackException.from_exception(caught.value))


class TestWarnings:
    def test_are_none_for_a_sound_configuration(self, tmp_path: Path) -> None:
        assert load(write(tmp_path, f'{APP}secret = "s"\n{SOURCE}'), {}).warnings() == []

    def test_tell_of_secrets_that_everyone_can_read(self, tmp_path: Path) -> None:
        inline = write(tmp_path, f'{APP}secret = "s"\n{SOURCE}')
        Path(inline).chmod(0o644)
        assert load(inline, {}).warnings() == [
            f"app.secret: everyone on this host can read {inline}; run chmod 600 {inline}"
        ]
        secret = write(tmp_path, "s", "app.secret")
        Path(secret).chmod(0o604)
        by_file = write(tmp_path, f'{APP}secret_file = "{secret}"\n{SOURCE}', "f.toml")
        assert secret in load(by_file, {}).warnings()[0]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (APP, "nothing to consume"),
            (APP + SOURCE, "not signed"),
            (APP + 'secret = "s "\n' + SOURCE, "white space"),
            (APP + SOURCE + 'start_from = "last"', "skips what waits"),
            (APP + SOURCE + "start_from = 2999-01-01", "in the future"),
            (APP + SOURCE + 'system_topic = "rmq_sys_jst_1"', "belongs to another app"),
            (APP + SOURCE + SOURCE + 'name = "b"', "shares group GID_bridge"),
        ],
    )
    def test_tell_of_what_is_probably_not_meant(self, tmp_path: Path, text: str, expected: str) -> None:
        assert any(expected in warning for warning in load(write(tmp_path, text), {}).warnings())


class TestCredentials:
    @pytest.mark.parametrize(
        ("app", "source", "signing"),
        [
            ("", "", "none"),
            ('secret = "s"\n', "", "ons"),
            ("", 'access_key = "k"\nsecret_key = "s"\n', "ons"),
            ('secret = "s"\n', 'credentials = "acl"\n', "acl"),
            ('secret = "s"\n', 'credentials = "none"\n', "none"),
        ],
    )
    def test_sign_for_ons_when_there_are_keys_unless_the_source_says_otherwise(
        self, tmp_path: Path, app: str, source: str, signing: str
    ) -> None:
        settings = load(write(tmp_path, APP + app + SOURCE + source), {})
        assert settings.signing(settings.source[0]) == signing

    def test_of_a_source_are_read_from_files_beside_the_configuration(self, tmp_path: Path) -> None:
        write(tmp_path, CANARY + "\n", "key")
        write(tmp_path, "canary-token", "token")
        text = 'access_key = "k"\nsecret_key_file = "key"\nsecurity_token_file = "token"\n'
        settings = load(write(tmp_path, APP + SOURCE + text), {})
        (source,) = settings.source
        assert source.secret_key is not None
        assert source.secret_key.get_secret_value() == CANARY
        assert source.security_token is not None
        assert source.security_token.get_secret_value() == "canary-token"
        assert source.security_token_file == tmp_path / "token"
        for shown in (repr(settings), settings.model_dump_json()):
            assert CANARY not in shown
            assert "canary-token" not in shown

    def test_may_come_from_the_environment(self, tmp_path: Path) -> None:
        environ = {"JST_SOURCE__0__ACCESS_KEY": "k", "JST_SOURCE__0__SECRET_KEY": CANARY}
        (source,) = load(write(tmp_path, APP + SOURCE + 'secret_key_file = "missing"'), environ).source
        assert source.access_key == "k"
        assert source.secret_key is not None
        assert source.secret_key.get_secret_value() == CANARY

    @pytest.mark.parametrize(
        ("text", "place", "words"),
        [
            ('access_key = "k"', "source[0]", "without secret_key; add secret_key"),
            (f'secret_key = "{CANARY}"', "source[0]", "without access_key"),
            ('credentials = "acl"', "source", "no keys; set app.secret_file, or access_key"),
            (
                f'credentials = "none"\naccess_key = "k"\nsecret_key = "{CANARY}"',
                "source[0]",
                "signs nothing",
            ),
            ('credentials = "acl"\nchannel = "CLOUD"', "source[0]", "channel is sent"),
            ('access_key = "k"\nsecret_key_file = "no"', "source[0].secret_key_file", "cannot be read"),
            ('security_token_file = "empty"', "source[0].security_token_file", "is empty"),
            (
                f'secret_key_file = "empty"\nsecret_key = "{CANARY}"',
                "source[0].secret_key_file",
                "given together with source[0].secret_key",
            ),
            ('credentials = "sts"', "source[0].credentials", "must be"),
            ('acces_key = "k"', "source[0].acces_key", "did you mean access_key"),
        ],
    )
    def test_that_cannot_be_used_are_refused_with_key_and_remedy(
        self, tmp_path: Path, text: str, place: str, words: str
    ) -> None:
        write(tmp_path, "", "empty")
        lines = problems(write(tmp_path, APP + SOURCE + text))
        line = lines[0]
        assert line.startswith(f"jst-bridge.toml: {place}: "), lines
        assert words in line
        assert CANARY not in "".join(lines)


class TestTls:
    def test_files_start_at_the_configuration_and_the_password_is_read(self, tmp_path: Path) -> None:
        for name in ("ca", "cert", "key"):
            write(tmp_path, "x", name)
        write(tmp_path, CANARY, "password")
        text = '[source.tls]\nca_file = "ca"\ncert_file = "cert"\nkey_file = "key"\nkey_password_file = "password"'
        settings = load(write(tmp_path, APP + SOURCE + text), {})
        tls = settings.source[0].tls
        assert tls is not None
        assert (tls.ca_file, tls.key_file) == (tmp_path / "ca", tmp_path / "key")
        assert tls.key_password is not None
        assert tls.key_password.get_secret_value() == CANARY
        assert CANARY not in repr(settings)

    def test_an_empty_table_turns_it_on(self, tmp_path: Path) -> None:
        assert load(write(tmp_path, APP + SOURCE), {}).source[0].tls is None
        for text in ("tls = {}", "[source.tls]"):
            tls = load(write(tmp_path, APP + SOURCE + text), {}).source[0].tls
            assert tls == Tls()
            assert not tls.insecure

    @pytest.mark.parametrize(
        ("text", "place", "words"),
        [
            ('ca_file = "no"', "source[0].tls.ca_file", "cannot be read: No such file"),
            ('key_file = "ca"', "source[0].tls", "cert_file only; add it"),
            ('insecure = true\nca_file = "ca"', "source[0].tls", "checks no certificate"),
            ('server_name = "a b"', "source[0].tls.server_name", "must be a host name"),
            ('ca_fil = "ca"', "source[0].tls.ca_fil", "did you mean ca_file"),
        ],
    )
    def test_what_cannot_be_used_is_refused_with_key_and_remedy(
        self, tmp_path: Path, text: str, place: str, words: str
    ) -> None:
        write(tmp_path, "x", "ca")
        (line,) = problems(write(tmp_path, f"{APP}{SOURCE}[source.tls]\n{text}"))
        assert line.startswith(f"jst-bridge.toml: {place}: "), line
        assert words in line


class TestReaching:
    def test_an_address_server_is_a_url_with_a_path_and_stands_alone(self, tmp_path: Path) -> None:
        for url in ("http://mq.example.com/rocketmq/nsaddr", "https://[::1]:8443/nsaddr-unit?nofix=1"):
            text = APP + SOURCE.replace("127.0.0.1:9876", url)
            assert load(write(tmp_path, text), {}).source[0].name_servers == (url,)
        two = APP + SOURCE.replace('"127.0.0.1:9876"', '"http://mq/nsaddr", "mq:9876"')
        (line,) = problems(write(tmp_path, two))
        assert "one address server alone" in line

    def test_brokers_may_be_mapped(self, tmp_path: Path) -> None:
        text = 'broker_address_map = { "10.0.0.5:10911" = "mq:1", "10.0.0.6" = "other" }'
        (source,) = load(write(tmp_path, APP + SOURCE + text), {}).source
        assert source.broker_address_map == {"10.0.0.5:10911": "mq:1", "10.0.0.6": "other"}
        for entry in ('"a b" = "mq:1"', '"mq" = ""', '"mq" = "http://mq:1"'):
            (line,) = problems(write(tmp_path, f"{APP}{SOURCE}broker_address_map = {{ {entry} }}"))
            assert "source[0].broker_address_map: has an entry" in line

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('namespace = "MQ_INST_1%X"', "instance's id"),
            ("namespace_system_topic = true", "of use with namespace only"),
            ('namespace = "GID"\nsystem_topic = "GID%x"', "without the namespace"),
            (f'namespace = "{"x" * 64}"\nsystem_topic = "t"', ""),
        ],
    )
    def test_a_namespace_that_cannot_be_used_is_refused(self, tmp_path: Path, text: str, words: str) -> None:
        path = write(tmp_path, APP + SOURCE + text)
        if words:
            assert words in problems(path)[0]
        else:
            assert load(path, {}).source[0].namespace == "x" * 64

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("[source.tls]\ninsecure = true", "tls.insecure checks no certificate"),
            ('secret_key_file = "open"\naccess_key = "k"', "everyone on this host can read"),
        ],
    )
    def test_doubts_are_told(self, tmp_path: Path, text: str, expected: str) -> None:
        Path(write(tmp_path, "s", "open")).chmod(0o604)
        found = load(write(tmp_path, APP + SOURCE + text), {}).warnings()
        assert any(expected in warning for warning in found), found

    def test_a_name_server_of_an_instance_suggests_its_namespace(self, tmp_path: Path) -> None:
        text = APP + SOURCE.replace("127.0.0.1", "MQ_INST_1_X.mq.example.com")
        found = load(write(tmp_path, text), {}).warnings()
        assert any('namespace = "MQ_INST_1_X"' in warning for warning in found)
        assert not any(
            "namespace" in warning
            for warning in load(write(tmp_path, text + 'namespace = "MQ_INST_1_X"'), {}).warnings()
        )


@given(st.integers(0, 99_999), st.sampled_from("smhdw"))
def test_a_span_is_its_number_times_its_unit(number: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[unit]
    assert span(f"{number}{unit}") == timedelta(seconds=number * seconds)


@given(st.text(max_size=12))
def test_other_texts_are_no_span_or_time_but_a_value_error(text: str) -> None:
    for read in (span, instant):
        with contextlib.suppress(ValueError):
            read(text)


@given(st.datetimes())
def test_an_instant_without_zone_is_beijing_time(moment: datetime) -> None:
    assert instant(moment.isoformat()) == moment.replace(tzinfo=BEIJING)
