"""See the main job at work on this machine: a real RocketMQ broker, Taobao messages, and the bridge.

    python examples/real_broker.py [--keep DIRECTORY]

Needs the project installed with its test extra, Java 11 or newer and Maven. Starts a name server and a broker on
free loopback ports, publishes every sample body and some lives of orders through the official Java client, lands
them with `jst-bridge run --drain`, shows them, and stops the servers. The database stays, to be looked at.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the servers live in the tests, which no installation carries

from tests.cluster import Cluster  # noqa: E402
from tests.java.toolchain import ToolMissing, toolchain  # noqa: E402
from tests.traffic import traffic  # noqa: E402

APP_KEY = "12345678"
SYSTEM_TOPIC = f"rmq_sys_jst_{APP_KEY}"
CONFIGURATION = """[app]
key = "{key}"

[store]
url = "sqlite:///{database}"

[[source]]
type = "rocketmq"
name_servers = ["{name_server}"]
group = "GID_bridge"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--keep", type=Path, help="where configuration and database go; a new directory otherwise"
    )
    place: Path | None = parser.parse_args().keep
    place = (place or Path(tempfile.mkdtemp(prefix="jst-bridge-example-"))).resolve()
    place.mkdir(parents=True, exist_ok=True)

    say("Preparing Java and the jars of RocketMQ (the first time: a download of about 100 MB)")
    try:
        tools = toolchain()
    except ToolMissing as missing:
        say(str(missing))
        return 69
    with tempfile.TemporaryDirectory(prefix="jst-bridge-servers-", ignore_cleanup_errors=True) as scratch:
        say("Starting a name server and a broker")
        with Cluster(tools, Path(scratch)) as cluster:
            lives = list(traffic(500))
            sent = cluster.publish([*samples(), *(fact.line(SYSTEM_TOPIC) for fact in lives)])
            say(f"Published {len(sent)} messages to {SYSTEM_TOPIC} at {cluster.name_server}")
            fullest_order = Counter(fact.keys for fact in lives).most_common(1)[0][0]
            code = show(place, cluster.name_server, fullest_order)
    say(
        "The servers are stopped. "
        + (f"The database is {place / 'jst-bridge.db'}" if code == 0 else f"Exit {code}")
    )
    return code


def show(place: Path, name_server: str, tid: str) -> int:
    """Run the bridge until everything is landed, then look at it; the first exit code that is not 0."""
    configuration = place / "jst-bridge.toml"
    database = place / "jst-bridge.db"
    configuration.write_text(CONFIGURATION.format(key=APP_KEY, database=database, name_server=name_server))
    for words in (
        ["run", "-c", str(configuration), "--drain", "--drain-timeout", "120"],
        ["status", "-c", str(configuration)],
        ["messages", "-c", str(configuration), "--limit", "10"],
        ["timeline", "-c", str(configuration), tid],
    ):
        say(f"jst-bridge {' '.join(words)}")
        program = Path(sys.executable).with_name("jst-bridge")
        code = subprocess.run([str(program), *words], check=False).returncode  # noqa: S603 words of our own
        if code:
            return code
    return 0


def samples() -> Iterator[dict[str, object]]:
    """Every sample that Taobao could send, in an ONS envelope as the system topic carries it."""
    for file in sorted((ROOT / "tests" / "data" / "samples").glob("*.json")):
        for sample in json.loads(file.read_text(encoding="utf-8")):
            if sample["kind"] not in ("jdp", "outgoing"):  # a row of another service; what an app sends
                body = json.dumps(envelope(sample), ensure_ascii=False)
                found = re.search(r'"tid":"?([0-9]+)', json.dumps(sample["content"]).replace("\\", ""))
                yield {
                    "topic": SYSTEM_TOPIC,
                    "tag": sample["topic"],
                    "keys": found[1] if found else "",
                    "body": body,
                }


def envelope(sample: dict[str, Any]) -> dict[str, Any]:
    """The ONS form of a sample, whichever form it was found in; what that one lacks is made up."""
    found = sample.get("envelope") or {}
    now = int(time.time() * 1000)
    body = {
        "topic": sample["topic"],
        "content": sample["content"],
        "outgoing_id": found.get("outgoing_id") or found.get("id") or time.time_ns(),
        "publish_time": found.get("publish_time") or now,
        "publisher_appkey": found.get("publisher_appkey") or found.get("pub_app_key") or "12497914",
    }
    nick = sample.get("user_nick") or found.get("user_nick")
    return {**body, "user_id": found.get("user_id", 733_740_000), "user_nick": nick} if nick else body


def say(text: str) -> None:
    sys.stderr.write(f"-- {text}\n")


if __name__ == "__main__":
    sys.exit(main())
