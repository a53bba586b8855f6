"""What keeps the tree in shape: imports go one way, commands load lazily, names are ours, and the linters agree."""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.util
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pytest

import hotstream
import sketch
import streams
import trainer
from streams.commands import COMMANDS as STREAMS_COMMANDS
from trainer.commands import COMMANDS as TRAINER_COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("hotstream", "sketch", "streams", "trainer")
ALL = (*PACKAGES, "benchmarks")  # the last one is run from the checkout only
SOURCES = sorted(path for package in ALL for path in (ROOT / package).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def run(*arguments: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: PLW1510  the caller looks at the exit code
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
    )


def parse(path: Path) -> ast.Module:
    """The module's tree. Python 3.11.7 fails if a garbage collection that runs finalizers interrupts `ast.parse`."""
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


# ---- imports -------------------------------------------------------------------------------------------------------


@cache
def imported_packages(path: Path) -> set[str]:
    """The top-level packages that a module imports anywhere, for types alone too."""
    names: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


FORBIDDEN = {
    "hotstream": {"kafka", "aiokafka", "faust", "pyarrow", "click", "benchmarks"},
    "sketch": {"hotstream", "streams", "trainer", "kafka", "aiokafka", "faust", "torch", "pyarrow", "click"},
    "streams": {"hotstream", "trainer", "torch"},
    "trainer": {"hotstream"},
    "benchmarks": {"faust", "aiokafka"},
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_lies_below_it(name):
    assert not imported_packages(MODULES[name]) & FORBIDDEN[name.split(".")[0]]


# What a library is needed for has one room, and everything else is handed what it makes.
ROOM_OF = {
    "kafka": {"streams.clients"},
    "aiokafka": {"streams.clients"},
    "faust": {"streams.agent"},
    "aiohttp": {"streams.dashboard", "trainer.serving"},
}


@pytest.mark.parametrize("library", sorted(ROOM_OF))
def test_such_a_library_is_imported_in_one_room_only(library):
    importing = {name for name, path in MODULES.items() if library in imported_packages(path)}
    assert importing, f"nothing imports {library} any more: take it out of the list"
    assert {name.rpartition(".")[0] for name in importing} == ROOM_OF[library], importing


@cache
def imported_rooms(path: Path, package: str) -> set[str]:
    """The rooms (sub-packages, modules) of one of our packages that a module imports."""
    rooms: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_package = node.module == package
            names = [f"{package}.{alias.name}" for alias in node.names] if is_package else [node.module]
        else:
            continue
        rooms.update(name.split(".")[1] for name in names if name.startswith(f"{package}."))
    return rooms


# What the rooms of `trainer` may see of `streams`. The first row is the trainer itself; the others also run whole
# processes, read logs or start brokers, and say why.
TRAINER_SEES = {"assignments", "cli", "clients", "errors", "importance", "keys", "records", "telemetry", "topics"}
TRAINER_ALSO_SEES = {
    "trainer.advise": {"logs"},  # profiles a log, without a broker
    "trainer.bench": {"agent", "generator", "processes"},  # measures agents and replays as processes, on made-up rows
    "trainer.commands": {
        "broker",
        "dashboard",
        "doctor",
        "escapes",
        "generator",
        "logs",
    },  # starts servers, reads schemas
    "trainer.demo": {"agent", "escapes", "logs", "processes"},  # runs every process, audits them, shows their names
    "trainer.serving": {"dashboard", "processes"},  # serves over HTTP by the same rules; its workers end with it
    "trainer.evaluate": {"generator", "logs"},  # trains from a log or from made-up rows, without a broker
}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("trainer.")))
def test_the_trainer_sees_only_the_rooms_of_streams_that_it_needs(name):
    room = ".".join(name.split(".")[:2])
    allowed = TRAINER_SEES | TRAINER_ALSO_SEES.get(room, {"commands"} if name == "trainer.cli" else set())
    assert imported_rooms(MODULES[name], "streams") - allowed == set()


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import hotstream",
            ("sketch", "streams", "trainer", "kafka", "aiokafka", "faust", "torch", "pyarrow", "numpy"),
        ),
        ("from hotstream import keys, follow, importance_sender, subscribe", ("aiokafka", "faust", "torch", "trainer")),
        ("import sketch", ("streams", "trainer", "kafka", "aiokafka", "faust", "torch", "pyarrow")),
        ("import streams", ("trainer", "kafka", "aiokafka", "faust", "torch", "pyarrow")),
        (
            "import streams.agent.shard, streams.assignments.table, streams.clients.config, streams.clients.connector",
            ("kafka", "aiokafka", "faust", "torch"),
        ),
        ("import streams.agent.worker", ("aiokafka", "faust", "torch")),
        ("from streams import subscribe, HotFeatureTable", ("faust", "torch", "trainer")),
        ("import streams.commands.replay", ("faust", "torch", "trainer")),
        ("import streams.commands.agent", ("torch", "trainer")),
        ("import trainer.cli", ("kafka", "aiokafka", "faust", "torch", "pyarrow")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement, absent):
    code = f"{statement}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    done = run("-c", code)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_marked_as_typed(package):
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("package", [hotstream, sketch, streams, trainer], ids=PACKAGES)
def test_no_foreign_package_of_one_of_our_names_is_imported(package):
    """Two of the names exist on PyPI: install hotstream into an environment of its own."""
    assert package.__file__ is not None
    imported = Path(package.__file__).resolve()
    installed = {Path(str(file.locate())).resolve() for file in distribution("hotstream").files or ()}
    assert imported in {ROOT / package.__name__ / "__init__.py", *installed}


# ---- names ---------------------------------------------------------------------------------------------------------


def listed_names(path: Path) -> list[str] | None:
    """What `__all__` lists, None if there is none."""
    for node in parse(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if [getattr(target, "id", "") for target in targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


def isort_style(name: str) -> tuple[int, str]:
    """Constants first, then classes, then functions, as ruff sorts them."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2), name


# Modules that need a library that is not always there.
OPTIONAL = {
    "fused": ("triton", "Triton is for Linux"),
    "managed_collision": ("torchrec", "TorchRec has an environment of its own"),
    "torchrec": ("torchrec", "TorchRec has an environment of its own"),
}
# A module of kernels is imported as a whole, and `kernels.insert` names one; `__main__` is only run.
WITH_NAMES = sorted(name for name in MODULES if name.split(".")[-1] not in ("kernels", "__main__"))


@pytest.mark.parametrize("name", WITH_NAMES)
def test_every_module_lists_its_public_names_in_order_and_has_them(name):
    listed = listed_names(MODULES[name])
    assert listed is not None, f"{MODULES[name]} has no __all__"
    assert listed == sorted(set(listed), key=isort_style)
    for part, (library, reason) in OPTIONAL.items():
        if part in name:
            pytest.importorskip(library, reason=reason)
    module = importlib.import_module(name)
    assert [public for public in listed if not hasattr(module, public)] == []
    assert module.__doc__, f"{MODULES[name]} has no docstring"


@pytest.mark.parametrize("name", sorted(name for name, path in MODULES.items() if path.name == "__init__.py"))
def test_a_package_lists_everything_that_it_brings_in(name):
    brought: set[str] = set()
    for node in parse(MODULES[name]).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            brought.update(alias.asname or alias.name for alias in node.names)
    listed = set(listed_names(MODULES[name]) or ())
    assert not brought - listed


FIXED_NAMES = {
    "hotstream": {"AdaptiveEmbedding", "follow", "importance_sender", "keys", "subscribe"},
    "sketch": {"HotSketch", "HotSet"},
    "streams": {"subscribe", "HotFeatureTable"},
    "trainer": {"AdaptiveEmbedding", "Trainer"},
}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_that_the_design_fixes_are_public(package):
    module = importlib.import_module(package)
    assert FIXED_NAMES[package] <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_a_name_that_a_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'nothing'"):
        streams.nothing  # noqa: B018


@pytest.mark.parametrize(
    "word", ["utils", "helpers", "common", "base", "misc", "kafka", "faust", "torch", "types", "queue"]
)
def test_no_module_has_a_name_that_says_nothing_or_shadows_a_dependency(word):
    assert [name for name in MODULES if name.split(".")[-1] == word] == []


def test_topic_names_are_written_in_one_file_only():
    pattern = re.compile(r"""["'][^"'\n]*\.(clicks|importance|assignments|sketch-snapshots|metrics|control|dlq)["']""")
    offenders = [
        f"{name}: {ast.unparse(node)}"
        for name, path in MODULES.items()
        if name != "streams.topics"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.JoinedStr) and pattern.search(ast.unparse(node))
    ]
    assert offenders == []


# One idea each, whatever their length: the sketch's loops, and the vector words of a row's numbers.
MAY_BE_LONG = {"sketch.kernels", "trainer.embedding.stores.lanes"}


def test_no_file_is_longer_than_350_lines():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items() if name not in MAY_BE_LONG}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


# ---- files ---------------------------------------------------------------------------------------------------------


def test_nothing_shadows_the_docker_sdk_or_our_own_packages():
    assert list((ROOT / "docker").rglob("*.py")) == []
    assert [path for package in PACKAGES for path in [ROOT / "tests" / package] if path.exists()] == []
    assert not (ROOT / "tests" / "__init__.py").exists()


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_help_lists_every_command_and_loads_none_of_them():
    code = """
import sys
from trainer.cli import main
sys.argv = ["hotstream", "--help"]
try:
    main()
except SystemExit as end:
    print("exit", end.code)
heavy = ("torch", "faust", "kafka", "aiokafka", "pyarrow")
print("heavy", [name for name in heavy if name in sys.modules])
"""
    done = run("-c", code)
    assert "exit 0\nheavy []" in done.stdout, done.stdout + done.stderr
    for name, (_, line) in {**STREAMS_COMMANDS, **TRAINER_COMMANDS}.items():
        assert re.search(rf"^  {name} +{re.escape(line)}", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize("name", sorted({**STREAMS_COMMANDS, **TRAINER_COMMANDS}))
def test_every_listed_command_has_its_module(name):
    module = {**STREAMS_COMMANDS, **TRAINER_COMMANDS}[name][0]
    assert importlib.util.find_spec(module) is not None
    assert module.split(".")[0] in ("streams", "trainer")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], 0), (["nonsense"], 2), (["topics", "describe", "--prefix", "a_b"], 2)],
)
def test_the_exit_code_is_0_for_good_and_2_for_wrong_usage(arguments, code):
    code_to_run = f"import sys; sys.argv[1:] = {arguments!r}; from trainer.cli import main; main()"
    done = run("-c", code_to_run)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# ---- the linters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)], ids=" ".join
)
def test_the_linters_have_nothing_to_say(arguments):
    done = run("-m", *arguments)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
