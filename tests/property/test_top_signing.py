"""Whatever is sent signs alike on both ends: here, and over what a server decodes from the body."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from jst_bridge.top import SIGN_METHODS, SignMethod, TopSettings, sign
from jst_bridge.top.parameters import Call, Secret

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).map(lambda name: "p" + name)
VALUES = st.text(
    st.one_of(
        st.sampled_from("+& =%:;,#?/\\\"'<>\n\r\t 商家测试帐号丶灬🙂👩‍👧é\u0301"),
        st.characters(exclude_categories=["Cs"]),
    ),
    min_size=1,
    max_size=30,
)
METHODS = st.sampled_from(SIGN_METHODS)


def servers_signature(form: dict[str, str], secret: str) -> str:
    """As the vendor's page tells it to a server, written anew."""
    pieces = b"".join(
        key + form[key.decode()].encode() for key in sorted(name.encode() for name in form if name != "sign")
    )
    secret_bytes = secret.encode()
    if form["sign_method"] == "md5":
        return hashlib.md5(secret_bytes + pieces + secret_bytes).hexdigest().upper()
    digest = {"hmac": hashlib.md5, "hmac-sha256": hashlib.sha256}[form["sign_method"]]
    return hmac.HMAC(secret_bytes, pieces, digest).hexdigest().upper()


@given(st.dictionaries(NAMES, VALUES, max_size=5), VALUES, METHODS, st.one_of(st.none(), VALUES))
def test_the_decoded_body_signs_as_it_was_signed(
    parameters: dict[str, str], secret: str, sign_method: SignMethod, session: str | None
) -> None:
    settings = TopSettings("12345678", secret, sign_method=sign_method)
    call = Call.of("taobao.x.get", parameters, None if session is None else Secret(session))
    body = call.signed(settings, 1_700_000_000.0).body
    pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    form = dict(pairs)
    assert len(pairs) == len(form)
    assert form["sign"] == servers_signature(form, secret)
    assert {name: form[name] for name in parameters} == parameters
    assert form.get("session") == session


@given(st.dictionaries(NAMES, VALUES, max_size=5), VALUES, METHODS, st.randoms())
def test_the_order_of_the_parameters_does_not_matter(
    parameters: dict[str, str], secret: str, sign_method: SignMethod, chance: object
) -> None:
    pairs = list(parameters.items())
    chance.shuffle(pairs)  # type: ignore[attr-defined]
    assert sign(dict(pairs), secret, sign_method) == sign(parameters, secret, sign_method)


@given(st.integers(0, 4_102_444_800))
def test_the_timestamp_is_beijing_time(now: int) -> None:
    body = Call.of("taobao.x.get", {}).signed(TopSettings("1", "secret"), float(now)).body
    sent = dict(parse_qsl(body.decode()))["timestamp"]
    assert datetime.strptime(sent + " +0800", "%Y-%m-%d %H:%M:%S %z") == datetime.fromtimestamp(now, UTC)
