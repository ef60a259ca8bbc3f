"""Generated traffic through the whole bridge: what the store holds then is the generator's truth, row by row.

JST_TEST_TRAFFIC_MESSAGES sets how many messages are published.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from jst_bridge.sandbox.platform import Platform
from jst_bridge.sandbox.rocketmq import SandboxCluster
from jst_bridge.sandbox.traffic import Disturbances, Outgoing, Traffic, TrafficSettings, Truth
from jst_bridge.store import open_database
from tests.generated import assert_store_holds

MESSAGES = int(os.environ.get("JST_TEST_TRAFFIC_MESSAGES", "20000"))
ROUGH = Disturbances(bad=0.01, duplicates=0.02, out_of_order=0.05, late=0.005)


@pytest.mark.timeout(900)
def test_the_store_equals_the_truth_of_what_was_published(tmp_path: Path) -> None:
    start = time.time_ns() // 1_000_000 - 6 * 3_600_000
    traffic = Traffic(
        TrafficSettings(seed=11, start=start, sellers=200, spacing=900, speed=3600, disturbances=ROUGH)
    )
    sent = [one for one in traffic.outgoing(MESSAGES) if one]
    with Platform() as platform:
        config = tmp_path / "jst-bridge.toml"
        config.write_text(platform.configuration(f"sqlite:///{tmp_path / 'jst-bridge.db'}"))
        for first in range(0, len(sent), 1000):
            platform.rocketmq.call(partial(publish, platform.system_topic, sent[first : first + 1000]))
        command = [
            sys.executable,
            "-m",
            "jst_bridge",
            "-c",
            str(config),
            "run",
            "--drain",
            "--drain-timeout",
            "600",
        ]
        outcome = subprocess.run(command, text=True, capture_output=True, timeout=700, check=False)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    truth = Truth.of(sent)
    assert_store_holds(open_database(f"sqlite:///{tmp_path / 'jst-bridge.db'}"), truth, platform.app_key)


def publish(topic: str, sent: list[Outgoing], cluster: SandboxCluster) -> None:
    for one in sent:
        cluster.publish(topic, one.body, tag=one.tag, keys=one.keys)
