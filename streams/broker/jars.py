"""What Apache Kafka runs on: a Java that is new enough, and its jars, resolved once by Maven from `docker/pom.xml`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from streams.errors import BrokerError

__all__ = ["KafkaJars", "find_java", "find_pom", "resolve_jars"]

_OLDEST_JAVA = 17  # what Kafka 4's broker asks for
_OTHERWISE = "or use the embedded engine, or `docker compose -f docker/compose.yml up`"
_MAVEN_DEADLINE_S = 600.0


def find_java() -> str:
    """The path of a Java that runs Kafka: of `JAVA_HOME` if that is set, else of `PATH`.

    Raises:
        BrokerError: there is none, or only one older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    java = (shutil.which("java", path=str(Path(home) / "bin")) if home else None) or shutil.which("java")
    if java is None:
        raise BrokerError(
            f"Apache Kafka needs Java and there is no `java` in JAVA_HOME or PATH; install Java {_OLDEST_JAVA} or "
            f"newer (Debian: openjdk-17-jre-headless), {_OTHERWISE}"
        )
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    if found is None or int(found[1]) < _OLDEST_JAVA:
        got = f"version {found[1]}" if found else f"no version ({shown.strip()[:200]!r})"
        raise BrokerError(
            f"Apache Kafka needs Java {_OLDEST_JAVA} or newer, got {got} from {java}; install a newer one and set "
            f"JAVA_HOME to it, {_OTHERWISE}"
        )
    return java


def find_pom() -> Path:
    """Where `pom.xml` is: beside this module in an installed wheel, under `docker/` in a checkout.

    Raises:
        BrokerError: in neither place.
    """
    places = [Path(__file__).with_name("pom.xml"), Path(__file__).parents[2] / "docker" / "pom.xml"]
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(str(place) for place in places)
    raise BrokerError(f"the list of Kafka's jars is missing, looked for {looked}; install hotstream anew")


class KafkaJars:
    """The jars of the Kafka version that a `pom.xml` pins, kept in a cache folder named after the file's content.

    Args:
        pom: the file; its property `kafka.version` is Kafka's version.
        cache: the folder of all versions; default `$XDG_CACHE_HOME/hotstream` or `~/.cache/hotstream`.
    """

    def __init__(self, pom: Path, cache: Path | None = None) -> None:
        text = pom.read_text()
        found = re.search(r"<kafka\.version>([\w.-]+)</kafka\.version>", text)
        if found is None:
            raise BrokerError(f"{pom}: no property kafka.version, expected <kafka.version>4.1.0</kafka.version>")
        self._pom = pom
        self.version = found[1]
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self._cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hotstream"
        self.folder = self._cache / f"kafka-{self.version}-{digest}"

    @property
    def classpath(self) -> str:
        """For `java -cp`; the asterisk is Java's own."""
        return str(self.folder / "*")

    def resolve(self) -> None:
        """Afterwards the folder exists and is complete; the first time takes Maven and half a minute.

        The folder appears by a rename, so a run that was cut short leaves none, and of two at once one wins.

        Raises:
            BrokerError: Maven is missing or fails.
        """
        if self.folder.is_dir():
            return
        mvn = shutil.which("mvn")
        if mvn is None:
            raise BrokerError(
                f"Apache Kafka's jars are not in {self.folder} yet and there is no `mvn` in PATH to fetch them; "
                f"install Maven (Debian: maven), {_OTHERWISE}"
            )
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=f"{self.folder.name}-partial-") as partial:
            fetched = Path(partial) / "libs"
            self._fetch(mvn, fetched)
            try:
                fetched.rename(self.folder)
            except OSError:
                if not self.folder.is_dir():  # else somebody else was quicker, with the same jars
                    raise

    def _fetch(self, mvn: str, target: Path) -> None:
        command = [mvn, "-q", "-B", "-f", str(self._pom), "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_MAVEN_DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerError(
                f"Maven did not fetch Apache Kafka {self.version} within {_MAVEN_DEADLINE_S:g} s; look at its mirror "
                f"settings and try again, {_OTHERWISE}"
            ) from error
        if done.returncode or not list(target.glob(f"kafka_*-{self.version}.jar")):
            said = "\n".join(f"  | {line[:300]}" for line in done.stdout.splitlines()[-8:])
            raise BrokerError(
                f"Maven could not fetch Apache Kafka {self.version} (exit code {done.returncode}); it needs a "
                f"repository it can reach, {_OTHERWISE}. It said:\n{said}"
            )


def resolve_jars() -> KafkaJars:
    """The jars that our own `pom.xml` pins, fetched if need be."""
    jars = KafkaJars(find_pom())
    jars.resolve()
    return jars
