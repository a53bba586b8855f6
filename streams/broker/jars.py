"""The requirements of Apache Kafka: a recent Java, and the jars that Maven downloads once from `docker/pom.xml`."""

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

_OLDEST_JAVA = 17  # required by the broker of Kafka 4
_ALTERNATIVES = "or use the embedded engine, or `docker compose -f docker/compose.yml up`"
_MAVEN_DEADLINE_S = 600.0


def find_java() -> str:
    """The path of `java`, from `JAVA_HOME` or else from `PATH`.

    Raises:
        BrokerError: `java` is missing, or older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    java = (shutil.which("java", path=str(Path(home) / "bin")) if home else None) or shutil.which("java")
    if java is None:
        raise BrokerError(
            f"Apache Kafka needs Java and there is no `java` in JAVA_HOME or PATH; install Java {_OLDEST_JAVA} or "
            f"newer (Debian: openjdk-17-jre-headless), {_ALTERNATIVES}"
        )
    output = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', output)
    if found is None or int(found[1]) < _OLDEST_JAVA:
        got = f"version {found[1]}" if found else f"no version ({output.strip()[:200]!r})"
        raise BrokerError(
            f"Apache Kafka needs Java {_OLDEST_JAVA} or newer, got {got} from {java}; install a newer one and set "
            f"JAVA_HOME to it, {_ALTERNATIVES}"
        )
    return java


def find_pom() -> Path:
    """The path of `pom.xml`: beside this module in an installed wheel, under `docker/` in a checkout.

    Raises:
        BrokerError: neither file exists.
    """
    candidates = [Path(__file__).with_name("pom.xml"), Path(__file__).parents[2] / "docker" / "pom.xml"]
    for path in candidates:
        if path.is_file():
            return path
    names = " or ".join(str(path) for path in candidates)
    raise BrokerError(f"the list of Kafka's jars is missing, expected {names}; reinstall hotstream")


class KafkaJars:
    """The jars of the Kafka version in a `pom.xml`, in a cache folder whose name holds a digest of the file.

    `jars.sha256` beside the file lists the jars and their checksums, as `sha256sum` prints them.

    Args:
        pom: the file; its property `kafka.version` is Kafka's version.
        cache: the folder of all versions; default `$XDG_CACHE_HOME/hotstream` or `~/.cache/hotstream`.

    Raises:
        BrokerError: the file has no property `kafka.version`, or the list is missing.
    """

    def __init__(self, pom: Path, cache: Path | None = None) -> None:
        text = pom.read_text()
        found = re.search(r"<kafka\.version>([\w.-]+)</kafka\.version>", text)
        if found is None:
            raise BrokerError(
                f"{pom}: no property kafka.version, expected <kafka.version>4.1.0</kafka.version>; reinstall hotstream"
            )
        self._pom = pom
        self._checksums = _read_checksums(pom.with_name("jars.sha256"))
        self.version = found[1]
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self._cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hotstream"
        self.folder = self._cache / f"kafka-{self.version}-{digest}"

    @property
    def classpath(self) -> str:
        """The argument of `java -cp`; Java expands the asterisk."""
        return str(self.folder / "*")

    def resolve(self) -> None:
        """Downloads the jars unless the folder exists; then it holds the listed jars. Cost: half a minute of Maven.

        The folder appears by a rename, so an interrupted run leaves none, and of two concurrent runs one wins.

        Raises:
            BrokerError: Maven is missing or fails, or a jar is not the listed one.
        """
        if self.folder.is_dir():
            self._verify(self.folder)
            return
        mvn = shutil.which("mvn")
        if mvn is None:
            raise BrokerError(
                f"Apache Kafka's jars are not in {self.folder} yet and there is no `mvn` in PATH to fetch them; "
                f"install Maven (Debian: maven), {_ALTERNATIVES}"
            )
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=f"{self.folder.name}-partial-") as partial:
            fetched = Path(partial) / "libs"
            self._fetch(mvn, fetched)
            self._verify(fetched)
            try:
                fetched.rename(self.folder)
            except OSError:
                if not self.folder.is_dir():  # else a concurrent run has created it, with the same jars
                    raise

    def _verify(self, folder: Path) -> None:
        """Checks that the folder holds exactly the listed jars: Java loads every jar in it.

        Raises:
            BrokerError: a jar is missing, unlisted, or has other content.
        """
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jar")}
        wrong = sorted(name for name, _ in found.items() ^ self._checksums.items())
        if wrong:
            raise BrokerError(
                f"the jar {wrong[0]} in {folder} is not the one of jars.sha256 ({len(set(wrong))} differ); delete "
                f"the folder, and check Maven's mirror, {_ALTERNATIVES}"
            )

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
                f"Maven did not download Apache Kafka {self.version} within {_MAVEN_DEADLINE_S:g} s; check its mirror "
                f"settings and try again, {_ALTERNATIVES}"
            ) from error
        if done.returncode or not list(target.glob(f"kafka_*-{self.version}.jar")):
            output = "\n".join(f"  | {line[:300]}" for line in done.stdout.splitlines()[-8:])
            raise BrokerError(
                f"Maven could not download Apache Kafka {self.version} (exit code {done.returncode}); configure a "
                f"repository that it can reach, {_ALTERNATIVES}. Output of Maven:\n{output}"
            )


def _read_checksums(path: Path) -> dict[str, str]:
    """Checksums by the names of the jars.

    Raises:
        BrokerError: the file is missing.
    """
    if not path.is_file():
        raise BrokerError(f"the checksums of Kafka's jars are missing, expected {path}; reinstall hotstream")
    pairs = (line.split() for line in path.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def resolve_jars() -> KafkaJars:
    """The jars of hotstream's `pom.xml`, downloaded if the cache lacks them."""
    jars = KafkaJars(find_pom())
    jars.resolve()
    return jars
