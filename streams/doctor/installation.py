"""Python, and the packages that hotstream's own metadata demand."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from streams.doctor.findings import FAULT, GOOD, MISSING, Finding

__all__ = ["check_package", "look_at_installation"]

# extra -> what needs it; the others of pyproject.toml are for developers
_EXTRAS = {
    "embedded": "the embedded broker, and with it `hotstream demo`",
    "remote": "click logs behind a scheme that Arrow does not open",
    "onnx": "a served model as an ONNX file",
}


def look_at_installation() -> Iterator[Finding]:
    """Yields Python, hotstream, and each package that it needs or can use."""
    wanted = str(metadata("hotstream")["Requires-Python"] or "")
    is_good = SpecifierSet(wanted).contains(platform.python_version(), prereleases=True)
    yield Finding(
        name="python",
        state=GOOD if is_good else FAULT,
        found=f"{platform.python_version()} ({sys.executable})" + ("" if is_good else f", expected {wanted}"),
        needed_for="" if is_good else "everything",
        mend="" if is_good else "make a new environment with a newer Python",
    )
    yield Finding(name="hotstream", state=GOOD, found=version("hotstream"))
    for text in requires("hotstream") or ():
        requirement = Requirement(text)
        extra = next((name for name in _EXTRAS if _applies(requirement, name) and not _applies(requirement, "")), "")
        if extra or _applies(requirement, ""):
            yield check_package(requirement, extra)


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def check_package(requirement: Requirement, extra: str = "") -> Finding:
    """What is installed for a requirement.

    Args:
        requirement: the package and its versions.
        extra: the extra that lists it; empty for one that hotstream always needs.
    """
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        installed = ""
    if installed and requirement.specifier.contains(installed, prereleases=True):
        return Finding(name=requirement.name, state=GOOD, found=installed)
    return Finding(
        name=requirement.name,
        state=MISSING if extra else FAULT,
        found=f"{installed or 'not installed'}, expected {requirement.specifier or 'any version'}",
        needed_for=_EXTRAS.get(extra, "everything"),
        mend=f"pip install 'hotstream[{extra}]'" if extra else f"pip install '{requirement}'".replace("'; ", "; "),
    )
