"""Java, the jars of RocketMQ 5.3.3 and 4.9.7 and the compiled programs of this directory, made once and kept.

They are kept in `$JST_TEST_CACHE`, else `~/.cache/jst-bridge-tests`, one directory for each version. A lock file
keeps two processes apart, and what is there is complete, because it arrives by a rename.

The programs of this directory run with the 5.3.3 client, whatever the servers are; servers and the admin tool
run with the jars of their own version.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROCKETMQ_VERSION", "ROCKETMQ_VERSIONS", "SPARING", "ToolMissing", "Toolchain", "toolchain"]

ROCKETMQ_VERSION = "5.3.3"
ROCKETMQ_VERSIONS = (ROCKETMQ_VERSION, "4.9.7")
"""Of 4.9.8 Maven Central has no servers (reference 8.1)."""
JVM_OPTIONS = {
    # without them 4.9.7 cannot unmap files on Java 17, and may not start again (reference 8.5)
    "4.9.7": (
        "--add-opens=java.base/java.nio=ALL-UNNAMED",
        "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
        "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    )
}
SPARING = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""JVM options for what lives for seconds or minutes beside others: less processor time to start."""
QUIET = '<configuration><root level="OFF"/></configuration>\n'
SOURCES = Path(__file__).parent


class ToolMissing(Exception):
    """This machine cannot run real servers; the message says what to install."""


@dataclass(frozen=True)
class Toolchain:
    """What it takes to run a Java program with RocketMQ on its class path."""

    java: str
    cache: Path
    classes: Path

    def fetch(self, version: str) -> Path:
        """The directory with the jars of a version. Raises ToolMissing when they cannot be had."""
        return jars(self.cache, version)

    def command(
        self,
        main: str,
        *arguments: str,
        home: Path,
        options: Sequence[str] = ("-Xmx256m",),
        version: str = ROCKETMQ_VERSION,
    ) -> list[str]:
        """The command line of one main class. Raises ToolMissing when the jars of that version cannot be had.

        `home` is a scratch directory: RocketMQ writes its state and its temporary files there instead of into
        the user's home and /tmp. Its logs, some 45 KB at each start, are switched off.
        """
        furnish(home)
        return [
            self.java,
            *JVM_OPTIONS.get(version, ()),
            *options,
            f"-Duser.home={home}",
            f"-Drocketmq.home.dir={home}",
            f"-Djava.io.tmpdir={home / 'tmp'}",
            "-XX:-UsePerfData",  # kept in /tmp, whatever java.io.tmpdir is
            f"-Drmq.logback.configurationFile={home / 'quiet.xml'}",
            "-Dfile.encoding=UTF-8",
            "-cp",
            f"{self.classes}{os.pathsep}{self.fetch(version)}{os.sep}*",
            main,
            *arguments,
        ]


@functools.cache
def toolchain() -> Toolchain:
    """Find Java, resolve the jars and compile the sources; the first call on a machine downloads some 100 MB.

    Raises ToolMissing when Java 11 or newer, its compiler or Maven is needed and not there.
    """
    java = find("java", "a JDK 11 or newer (Debian: apt-get install default-jdk-headless)")
    check_version(java)
    cache = cache_directory()
    library = jars(cache, ROCKETMQ_VERSION)
    with locked(cache / "lock"):
        sources = sorted(SOURCES.glob("*.java"))
        digest = hashlib.sha256(b"\0".join(path.name.encode() + path.read_bytes() for path in sources))
        classes = library.parent / f"classes-{digest.hexdigest()[:12]}"
        if not classes.is_dir():
            compile_sources(sources, library, classes)
    return Toolchain(java, cache, classes)


def cache_directory() -> Path:
    """Where what was fetched and built is kept."""
    return Path(os.environ.get("JST_TEST_CACHE") or Path.home() / ".cache" / "jst-bridge-tests")


@functools.cache
def jars(cache: Path, version: str) -> Path:
    """The directory with RocketMQ's jars of one version; Maven fetches them at first."""
    release = cache / f"rocketmq-{version}"
    release.mkdir(parents=True, exist_ok=True)
    library = release / "lib"
    with locked(cache / "lock"):
        if not library.is_dir():
            resolve(version, library)
    return library


def furnish(home: Path) -> None:
    """What RocketMQ wants to find in its home: 5.3.3 is told where its quiet logging is, 4.9.7 looks for it."""
    (home / "tmp").mkdir(exist_ok=True)
    (home / "conf").mkdir(exist_ok=True)
    for file in ("quiet.xml", *(f"conf/logback_{program}.xml" for program in ("namesrv", "broker", "tools"))):
        if not (home / file).exists():
            (home / file).write_text(QUIET)


def find(program: str, what: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ToolMissing(f"{program} is not on PATH: install {what}")
    return path


def check_version(java: str) -> None:
    """Refuse a Java older than 11; `java -version` writes `"1.8.0_302"` or `"17.0.15"` on stderr."""
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < 11:
        first_line = said.partition("\n")[0] or "nothing"
        raise ToolMissing(
            f"{java} is not Java 11 or newer (it says: {first_line}): install default-jdk-headless"
        )


def resolve(version: str, jars: Path) -> None:
    maven = find("mvn", "Maven (Debian: apt-get install maven)")
    with arriving(jars) as made, tempfile.TemporaryDirectory() as project:
        Path(project, "pom.xml").write_text(project_of(version))
        goal = ("dependency:copy-dependencies", f"-DoutputDirectory={made}", "-DincludeScope=runtime")
        outcome = run([maven, "-q", "-B", *goal], cwd=project, timeout=1800)
        if outcome.returncode:
            reason = next(
                (line for line in outcome.stdout.splitlines() if "ERROR" in line), "no reason given"
            )
            raise ToolMissing(f"Maven could not fetch RocketMQ {version}: {reason}")


def project_of(version: str) -> str:
    """A Maven project that needs the servers, mqadmin and the Java client (tools brings both)."""
    needed = "".join(
        f"<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-{name}</artifactId>"
        f"<version>{version}</version></dependency>"
        for name in ("namesrv", "broker", "tools")
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>jst-bridge</groupId><artifactId>test-servers</artifactId><version>1</version>"
        f"<dependencies>{needed}</dependencies></project>"
    )


def compile_sources(sources: Sequence[Path], jars: Path, classes: Path) -> None:
    javac = find("javac", "a JDK 11 or newer, not only a JRE (Debian: apt-get install default-jdk-headless)")
    with arriving(classes) as made:
        options = ["-encoding", "UTF-8", "-nowarn", "-d", str(made), "-cp", f"{jars}{os.sep}*"]
        outcome = run([javac, *options, *map(str, sources)], timeout=300)
        if outcome.returncode:
            raise RuntimeError(f"the Java sources of the tests do not compile:\n{outcome.stdout}")


def run(
    command: Sequence[str], *, timeout: float, cwd: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        timeout=timeout,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """A new directory next to `target` that becomes `target` if all goes well, and vanishes if not."""
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield made
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
