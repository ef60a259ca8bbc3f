"""Hours in minutes: memory stays where it was, however many messages pass."""

from __future__ import annotations

import json
import os
import signal
import statistics
from pathlib import Path

import psutil
import pytest

from tests.bridge_process import Installation
from tests.cluster import RunningCluster, wait_until
from tests.traffic import traffic

MESSAGES = int(os.environ.get("JST_TEST_SOAK_MESSAGES", "60000"))


@pytest.mark.slow
@pytest.mark.one_broker
@pytest.mark.timeout(1800)
def test_memory_stays_flat(tmp_path: Path, cluster: RunningCluster, topic: str, group: str) -> None:
    lines = tmp_path / "lines.json"
    with lines.open("w") as file:
        for fact in traffic(MESSAGES, sellers=200):
            file.write(json.dumps(fact.line(topic)) + "\n")
    cluster.flood(topic, lines, MESSAGES)
    lines.unlink()
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    sizes: list[tuple[int, int]] = []
    with installation.start() as bridge:
        process = psutil.Process(bridge.process.pid)

        def landed() -> bool:
            sizes.append((installation.count(), process.memory_info().rss))
            return sizes[-1][0] >= MESSAGES

        wait_until(landed, "all messages", 1500)
        bridge.signal(signal.SIGTERM)
        assert bridge.wait().code == 0
    early = [size for count, size in sizes if MESSAGES / 4 < count <= MESSAGES / 2]
    late = [size for count, size in sizes if count > MESSAGES * 3 / 4]
    report = f"{len(sizes)} samples, early {max(early) >> 20} MiB, late {max(late) >> 20} MiB"
    print(report)
    assert statistics.median(late) - statistics.median(early) < 8 << 20, report
    assert max(late) < 120 << 20, report
