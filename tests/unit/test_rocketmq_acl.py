"""Keys in files that somebody renews, and what a broker's refusal says (reference 5.4, 5.5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from jst_bridge.errors import ConfigurationError, CredentialsRefused
from jst_bridge.rocketmq import Client, ClientSettings, Credentials, acl
from jst_bridge.rocketmq.acl import CredentialFiles, credentials_refused
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.frame import Frame
from tests.scripted import Call, peers, run

KEYS = Credentials("key", "canary-secret", origin="app.key and app.secret")
ASK = Request.GET_MAX_OFFSET


def refused(
    code: int, remark: str, request: Request, credentials: Credentials | None = KEYS
) -> CredentialsRefused:
    error = credentials_refused(Frame(code, remark=remark), "mq:10911", request, credentials)
    assert error is not None
    assert error.exit_code == 77
    assert "canary" not in f"{error} {error.remedy}"
    return error


@pytest.mark.parametrize(
    ("remark", "request_code", "resource", "right"),
    [
        ("has no permission to access Topic:T from 127.0.0.1,", Request.PULL_MESSAGE, "topic T", "Sub"),
        ("has no permission to access Topic:T from 127.0.0.1,", Request.GET_MIN_OFFSET, "topic T", "Get"),
        ("has no permission to access Group:G from 127.0.0.1,", Request.HEART_BEAT, "group G", "Sub"),
        (
            "has no permission to access Topic:%DLQ%G from",
            Request.PULL_MESSAGE,
            "topic %DLQ%G",
            "Sub",
        ),
        ("has no permission to access Topic:T from", Request.SEND_MESSAGE_V2, "topic T", "Pub"),
    ],
)
def test_a_missing_permission_is_named_with_what_it_is_for(
    remark: str, request_code: Request, resource: str, right: str
) -> None:
    error = refused(16, f"User:key {remark} no matched policies.", request_code)
    assert (
        f"mq:10911 refused {request_code.name} by access key key, which lacks {right} on {resource}"
        in str(error)
    )
    assert f"grant {right} on {resource} to access key key" in error.remedy


def test_plain_acl_says_the_same() -> None:
    remark = (
        "org.apache.rocketmq.acl.common.AclException: No default permission for group:%RETRY%G, org.apache"
    )
    assert "lacks Sub on group %RETRY%G" in str(refused(1, remark, Request.HEART_BEAT))
    admin = "org.apache.rocketmq.acl.common.AclException: Need admin permission for request code=17"
    assert "admin permission" in refused(1, admin, Request.UPDATE_AND_CREATE_TOPIC).remedy


def test_wrong_keys_and_none_at_all_name_the_setting() -> None:
    wrong = refused(16, "check signature failed.", Request.PULL_MESSAGE)
    assert "access key key" in str(wrong)
    assert wrong.remedy == "check app.key and app.secret"
    unsigned = refused(16, "username cannot be null.", Request.PULL_MESSAGE, None)
    assert "an unsigned request" in str(unsigned)
    assert "app.secret" in unsigned.remedy
    token = Credentials("key", "canary-secret", "canary-token", origin="x")
    assert "may have expired" in refused(16, "check signature failed.", ASK, token).remedy


def test_what_is_about_something_else_is_no_refusal_of_keys() -> None:
    for code, remark in [
        (16, "the topic[T] pulling message is forbidden"),
        (1, "java.lang.NullPointerException"),
        (2, "check signature failed."),
        (0, ""),
    ]:
        assert credentials_refused(Frame(code, remark=remark), "mq:1", ASK, KEYS) is None


class TestFiles:
    def test_a_changed_file_is_signed_with(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        token = tmp_path / "token"
        token.write_text("canary-first\n")
        files = CredentialFiles(KEYS, {"security_token": token})
        assert files.current().security_token == "canary-first"
        assert files.current() is files.current()
        token.write_text("canary-second")
        monkeypatch.setattr(acl, "LOOK_PERIOD", 0.0)
        files.current(fresh=True)
        token.write_text("canary-third\n")
        assert files.current().security_token == "canary-third"
        assert "canary" not in repr(files)
        assert files.access_key == "key"

    def test_a_file_that_is_gone_or_empty_for_a_moment_changes_nothing(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("canary")
        files = CredentialFiles(KEYS, {"secret_key": secret})
        secret.write_text("")
        assert files.current(fresh=True).secret_key == "canary"
        secret.unlink()
        assert files.current(fresh=True).secret_key == "canary"

    @pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
    def test_a_file_that_cannot_be_used_at_the_start_is_a_configuration_error(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        file = tmp_path / "token"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=str(file)):
            CredentialFiles(KEYS, {"security_token": file})

    def test_a_refused_request_is_said_once_more_when_the_files_were_renewed(self, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("old")

        def check(call: Call) -> None:
            if call.ext["SecurityToken"] == "new":
                call.answer()
            else:
                token.write_text("new")  # whoever renews it was a little late
                call.answer(16, remark="check signature failed.")

        async def work() -> None:
            async with peers() as (server,):
                server.on(ASK, check)
                files = CredentialFiles(KEYS, {"security_token": token})
                client = Client(ClientSettings((server.address,), files))
                assert (await client.call(server.address, ASK, {"topic": "T"})).code == 0
                assert [call.ext["SecurityToken"] for call in server.calls] == ["old", "new"]
                await client.close()

        run(work())

    def test_a_refused_request_is_not_repeated_with_the_same_keys(self, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("old")

        async def work() -> None:
            async with peers() as (server,):
                server.on(ASK, lambda call: call.answer(16, remark="check signature failed."))
                client = Client(
                    ClientSettings((server.address,), CredentialFiles(KEYS, {"security_token": token}))
                )
                with pytest.raises(CredentialsRefused):
                    await client.call(server.address, ASK)
                assert len(server.calls) == 1
                await client.close()

        run(work())
