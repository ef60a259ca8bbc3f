"""The eight vectors: two published ones, six checked against public SDKs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.top import SIGN_METHODS, base_string, sign

VECTORS = json.loads((Path(__file__).parents[1] / "data/top/signatures.json").read_text("utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_a_known_request_gets_its_known_signature(vector: dict[str, Any]) -> None:
    assert sign(vector["parameters"], vector["secret"], vector["sign_method"]) == vector["sign"]


def test_the_vectors_are_eight_and_cover_every_method() -> None:
    assert len(VECTORS) == 8
    assert {vector["sign_method"] for vector in VECTORS} == set(SIGN_METHODS)


def test_names_and_raw_values_follow_each_other_in_ascii_order() -> None:
    vector = next(vector for vector in VECTORS if vector["id"] == "V5")
    assert base_string(vector["parameters"]) == (
        "app_key12345678formatjsonmethodtaobao.jushita.jms.user.getsign_methodhmac-sha256simplifytrue"
        "timestamp2016-01-01 12:00:00user_nick商家测试帐号17v2.0"
    )
    assert base_string({"a": "1", "_": "2", "Z": "3"}) == "Z3_2a1"


def test_a_signature_is_not_part_of_its_own_input() -> None:
    assert sign({"a": "1", "sign": "X"}, "s", "md5") == sign({"a": "1"}, "s", "md5")
