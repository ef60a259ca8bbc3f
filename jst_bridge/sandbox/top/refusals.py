"""What the platform says when it refuses: the codes of reference 6.1 with their texts, as seen in real answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["MESSAGES", "Refusal", "Refused", "typical"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The content of an `error_response`; '' stands for a field that is left out."""

    code: int
    msg: str
    sub_code: str = ""
    sub_msg: str = ""


class Refused(Exception):
    """A check or a method refused the request."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.msg)
        self.refusal = refusal


MESSAGES: Final[Mapping[int, str]] = {
    3: "Upload Fail",
    4: "User Call Limited",
    5: "Session Call Limited",
    6: "Partner Call Limited",
    7: "App Call Limited",
    8: "App Call Exceeds Limited Frequency",
    9: "Http Action Not Allowed",
    10: "Service Currently Unavailable",
    11: "Insufficient ISV Permissions",
    12: "Insufficient User Permissions",
    13: "Insufficient Partner Permissions",
    15: "Remote service error",
    21: "Missing method",
    22: "Invalid method",
    23: "Invalid format",
    24: "Missing signature",
    25: "Invalid signature",
    26: "Missing session",
    27: "Invalid session",
    28: "Missing app key",
    29: "Invalid app Key",
    30: "Missing timestamp",
    31: "Invalid timestamp",
    32: "Missing version",
    33: "Invalid version",
    34: "Unsupported version",
    40: "Missing required arguments",
    41: "Invalid arguments",
    42: "Forbidden Request",
    43: "Parameter Error",
    44: "Invalid Access Token",
    47: "Invalid Encoding",
    50: "Remote service error",
    53: "Insufficient security level of the session",
}
"""The texts of the codes below 100. The old business codes (501 to 670) are remote service errors, too."""

_SUB_CODES: Final[Mapping[int, tuple[str, str]]] = {
    7: ("accesscontrol.limited-by-api-access-count", "This ban will last for 1 more seconds"),
    11: ("isv.permission-api-package-limit", "scope ids is 381 11655"),
    15: ("isp.remote-service-error", "API调用远程服务出错"),
    21: ("", "http传入的参数加入method字段"),
    27: ("invalid-sessionkey", "SessionKey非法"),
    29: ("isv.appkey-not-exists", ""),
    50: ("isv.invalid-parameter", "非法参数"),
}


def typical(
    code: int, *, detail: str = "", sub_code: str | None = None, sub_msg: str | None = None
) -> Refusal:
    """The usual refusal with this code; `detail` is appended to its text after a colon, as the platform does.

    A `sub_code` of one's own comes without the usual `sub_msg`.
    """
    msg = MESSAGES.get(code, "Remote service error") + (f":{detail}" if detail else "")
    usual_code, usual_msg = _SUB_CODES.get(code, ("", "")) if sub_code is None else (sub_code, "")
    return Refusal(code, msg, usual_code, usual_msg if sub_msg is None else sub_msg)
