"""The frame of the command line: help, configuration, errors and exit codes, whatever the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from jst_bridge import __version__
from jst_bridge.cli import check as check_module
from jst_bridge.cli import cli
from jst_bridge.errors import ConnectionFailed, CredentialsRefused, StoreUnavailable

CANARY = "c4nary-5ecret"
COMMANDS = ("run", "check", "status", "messages", "timeline")


def write(directory: Path, text: str = "") -> str:
    file = directory / "jst-bridge.toml"
    file.write_text('[app]\nkey = "12345678"\n' + text)
    file.chmod(0o600)
    return str(file)


def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JST_")}
    return subprocess.run(
        [sys.executable, "-m", "jst_bridge", *arguments],
        capture_output=True,
        text=True,
        env={**clean, **environ},
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )


class TestStart:
    def test_of_version_and_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys, jst_bridge.cli as c\n"
            "try: c.cli.main([sys.argv[1]])\n"
            "except SystemExit as e: assert e.code == 0, e.code\n"
            "print(sorted({m.split('.')[0] for m in sys.modules} & "
            "{'pydantic', 'rich', 'sqlalchemy', 'structlog', 'asyncio', 'msgspec'}))"
        )
        for option in ("--version", "--help"):
            done = subprocess.run(
                [sys.executable, "-c", code, option], capture_output=True, text=True, timeout=60, check=True
            )
            assert done.stdout.splitlines()[-1] == "[]"

    @pytest.mark.parametrize(
        ("moment", "code"),
        [
            ("atexit.register(os.kill, os.getpid(), signal.SIGINT)", 0),
            ("sys.meta_path.insert(0, type('', (), {'find_spec': lambda *_: os.kill(os.getpid(), 2)}))", 130),
        ],
        ids=["the interpreter ends", "its modules are imported"],
    )
    def test_ctrl_c_is_quiet_when(self, moment: str, code: int) -> None:
        script = (
            f"import atexit, os, signal, sys; from jst_bridge.__main__ import main; {moment}\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
            "sys.argv = ['jst-bridge', '--version']; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (code, "")

    def test_answers_the_version_and_names_every_command(self) -> None:
        assert __version__ in CliRunner().invoke(cli, ["--version"]).stdout
        usage = CliRunner().invoke(cli, ["--help"]).stdout
        for command in COMMANDS:
            assert f"\n  {command} " in usage

    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_a_command_explains_itself_in_80_columns(self, command: str) -> None:
        done = CliRunner().invoke(cli, [command, "--help"])
        assert done.exit_code == 0
        assert "-c, --config FILE" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["stats"],
            ["--nope"],
            ["run", "--drain-timeout", "0"],
            ["run", "--drain-timeout", "soon"],
            ["timeline"],
            ["messages", "--limit", "0"],
            ["messages", "--since", "yesterday"],
            ["check", "-c"],
        ],
    )
    def test_that_is_wrong_exits_2_and_says_so_on_stderr(self, arguments: list[str]) -> None:
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 2
        assert done.stdout == ""
        assert "Error: " in done.stderr


class TestConfiguration:
    def test_is_taken_before_and_after_the_command(self, tmp_path: Path) -> None:
        path = write(tmp_path)
        for arguments in (["-c", path, "check"], ["check", "-c", path], ["-c", "none", "check", "-c", path]):
            done = CliRunner().invoke(cli, arguments)
            assert done.exit_code == 0, done.stderr
            assert "12345678" in done.stdout

    def test_that_is_wrong_exits_78_with_one_line_a_problem_and_a_remedy(self, tmp_path: Path) -> None:
        path = write(tmp_path, 'secert = "c4nary-5ecret"\n[run]\nlog_level = "loud"\n')
        done = program("check", "-c", path)
        assert done.returncode == 78
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            f"error: {path}: app.secert: unknown key; did you mean secret?",
            f"error: {path}: run.log_level: must be 'debug', 'info', 'warning' or 'error' (it is \"loud\")",
            "  remedy: correct this, then run `jst-bridge check`",
        ]

    def test_that_is_missing_exits_78_without_a_traceback(self, tmp_path: Path) -> None:
        for command in (["run"], ["check"], ["status"], ["messages"], ["timeline", "1"]):
            done = CliRunner().invoke(cli, [*command, "-c", str(tmp_path / "none.toml")])
            assert done.exit_code == 78
            assert done.stderr.startswith(f"error: {tmp_path}/none.toml: there is no such file\n  remedy: ")
            assert "Traceback" not in done.stderr

    def test_without_a_source_cannot_run(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli, ["run", "-c", write(tmp_path)])
        assert done.exit_code == 78
        assert "source: there is none to run" in done.stderr
        assert "  remedy: add a [[source]]" in done.stderr

    def test_with_hostile_text_is_reported_with_escapes(self, tmp_path: Path) -> None:
        path = write(tmp_path, '"\\u001b[31m[/b]" = 1\n')
        done = CliRunner().invoke(cli, ["check", "-c", path])
        assert "app.\\x1b[31m[/b]: unknown key" in done.stderr
        assert "\x1b" not in done.stderr


class TestCheck:
    def test_tells_the_configuration_as_understood_without_secrets(self, tmp_path: Path) -> None:
        path = write(
            tmp_path,
            f'secret = "{CANARY}"\n[[source]]\ntype = "rocketmq"\nname = "jushita"\n'
            'name_servers = ["mq1:9876", "mq2:9876"]\ngroup = "GID_bridge"\nstart_from = 2026-01-31T00:00:00Z\n',
        )
        done = CliRunner().invoke(cli, ["check", "-c", path])
        assert done.exit_code == 0
        assert done.stderr == ""
        assert CANARY not in done.output
        assert max(map(len, done.stdout.splitlines())) <= 80
        for expected in (
            "12345678, requests signed with the secret of app.secret",
            "store is down for 60 s",
            "source jushita",
            "mq1:9876, mq2:9876",
            "GID_bridge",
            "rmq_sys_jst_12345678",
            "2026-01-31 08:00:00 Beijing time",
        ):
            assert expected in done.stdout

    def test_warns_of_what_is_probably_not_meant(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli, ["check", "-c", write(tmp_path)])
        assert done.exit_code == 0
        assert "warning: source: there is none" in done.stderr
        assert "warning: app.secret: there is none" in done.stderr

    def test_that_connects_says_which_hop_failed_and_exits_with_its_code(self, tmp_path: Path) -> None:
        path = write(
            tmp_path, '[[source]]\ntype = "rocketmq"\nname_servers = ["127.0.0.1:1"]\ngroup = "GID_bridge"\n'
        )
        done = program("check", "--connect", "-c", path)
        assert done.returncode == 69, done.stderr
        assert "ok      store" in done.stdout
        assert "FAILED  rocketmq: name server 127.0.0.1:1: " in done.stdout
        assert "remedy: " in done.stdout
        assert "Traceback" not in done.stderr


class TestRun:
    def test_without_a_name_server_says_so_once_and_exits_69(self, tmp_path: Path) -> None:
        path = write(
            tmp_path, '[[source]]\ntype = "rocketmq"\nname_servers = ["127.0.0.1:1"]\ngroup = "GID_bridge"\n'
        )
        done = program("run", "--drain", "--drain-timeout", "20", "-c", path)
        assert done.returncode == 69, done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
            line for line in done.stderr.splitlines() if "127.0.0.1:1" in line
        ]
        assert "  remedy: " in done.stderr
        assert "Traceback" not in done.stderr
        assert json.loads(done.stdout)["landed"] == 0


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ConnectionFailed("no connection to \x1b[2Jmq:1", remedy="start it\nor wait"), 69),
            (StoreUnavailable("locked"), 75),
            (CredentialsRefused("refused"), 77),
        ],
    )
    def test_on_purpose_are_a_line_their_remedies_and_their_code(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
    ) -> None:
        done = self.invoke(monkeypatch, error)
        assert done.exit_code == code
        lines = [f"error: {error}".replace("\x1b", "\\x1b")]
        lines += [f"  remedy: {line}" for line in getattr(error, "remedy", "").splitlines()]
        assert done.stderr.splitlines() == lines

    def test_unforeseen_are_a_defect_and_do_not_show_their_message(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = self.invoke(monkeypatch, KeyError(CANARY))
        assert done.exit_code == 70
        assert "error: unexpected KeyError" in done.stderr
        assert "this is a defect" in done.stderr
        assert CANARY not in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("arguments", [["--debug", "check"], ["check", "--debug"]])
    def test_have_a_traceback_when_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
    ) -> None:
        done = self.invoke(monkeypatch, KeyError("x"), arguments)
        assert done.exit_code == 70
        assert "Traceback (most recent call last)" in done.stderr
        monkeypatch.setenv("JST_DEBUG", "1")
        assert "Traceback" in self.invoke(monkeypatch, ConnectionFailed("x"), ["check"]).stderr

    def test_of_an_interrupt_is_130_without_a_word(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done = self.invoke(monkeypatch, KeyboardInterrupt())
        assert done.exit_code == 130
        assert done.stderr.strip() == ""

    @staticmethod
    def invoke(
        monkeypatch: pytest.MonkeyPatch, error: BaseException, arguments: list[str] | None = None
    ) -> click.testing.Result:
        """A command that raises: a command of its own in place of `check`."""

        def fail() -> None:
            raise error

        command = click.Command("check", callback=fail, params=check_module.command.params[-2:])
        monkeypatch.setattr(check_module, "command", command)
        return CliRunner().invoke(cli, arguments or ["check"])


def test_a_reader_that_leaves_a_pipe_leaves_no_trace(tmp_path: Path) -> None:
    path = write(tmp_path)
    code = (
        "import sys, click, jst_bridge.cli as c, jst_bridge.cli.check as m\n"
        "m.command = click.Command('check', callback=lambda: [print('x' * 1000) for _ in range(10000)] and None)\n"
        "c.cli.main(['check'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=path.rpartition("/")[0],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert stderr == b""


def test_an_output_with_no_room_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jst_bridge", "check", "-c", write(tmp_path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning:")]
    assert errors == [
        "error: the output cannot be written: No space left on device",
        "  remedy: make room where it goes",
    ]


def test_a_terminal_of_another_encoding_gets_escapes(tmp_path: Path) -> None:
    directory = tmp_path / "订单"
    directory.mkdir()
    done = program("check", "-c", write(directory), PYTHONIOENCODING="latin-1", COLUMNS="200")
    assert done.returncode == 0
    assert "\\u8ba2\\u5355/jst-bridge.toml" in done.stdout
