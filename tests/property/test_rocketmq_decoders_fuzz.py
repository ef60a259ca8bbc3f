"""The fuzzer of tests/fuzz for a minute, and that it would notice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from jst_bridge.errors import DecodeError
from tests.fuzz.engine import Target, fuzz, reproduce
from tests.fuzz.mutation import MAX_INPUT, Mutator
from tests.fuzz.targets import TARGETS

SECONDS = float(os.environ.get("JST_TEST_FUZZ_SECONDS", "60"))
SEED = os.environ.get("JST_TEST_FUZZ_SEED", "1")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 600)
def test_what_reads_bytes_from_outside_raises_only_our_errors_in_bounded_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(SECONDS), "--seed", SEED]
    outcome = subprocess.run(
        [*command, "--failures", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(outcome.stdout)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stdout.count(" cases ") == len(TARGETS) + 1


def test_an_error_that_is_not_ours_is_found_saved_and_seen_again(tmp_path: Path) -> None:
    def work(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError(data[0])
        raise DecodeError("as it should be")

    target = Target("faulty", work, (b"sound",))
    report = fuzz(target, 0.5, 1, tmp_path)
    assert report.refused > 0
    (failure,) = report.failures
    assert "KeyError" in failure.what
    (file,) = tmp_path.iterdir()
    assert failure.command == f"python -m tests.fuzz --target faulty --reproduce {file}"
    with pytest.raises(KeyError):
        reproduce(target, file.read_bytes())


def test_memory_beyond_bounds_is_found(tmp_path: Path) -> None:
    def greedy(data: bytes) -> None:
        assert len(bytearray(80 << 20)) > len(data)

    (failure,) = fuzz(Target("greedy", greedy, (b"x",)), 0, 1, tmp_path).failures
    assert "80 MiB" in failure.what


def test_the_same_dice_make_the_same_inputs() -> None:

    def inputs() -> list[bytes]:
        mutator = Mutator(random.Random(7))
        return [mutator.mutate(b'{"a":[1,2],"b":"text"}' * 3, bytes(range(256))) for _ in range(2000)]

    first = inputs()
    assert first == inputs()
    assert len(set(first)) > 1500
    assert max(map(len, first)) <= MAX_INPUT
