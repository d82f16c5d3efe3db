"""pytest --affected SECONDS: of the tests that the changes of the last hour can break, those that matter most.

Changed are the files of the last hour's commits and all that is not committed. A test file is as far from a change as
its chain of imports is long: 0 where it changed itself, 1 where it imports what changed. Near tests are chosen first,
and quick ones among them, until they would take the seconds given, by what each took the last time (in pytest's cache).
"""

from __future__ import annotations

import ast
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

import resect

_CACHE = "resect/seconds"
_USUAL = 2.0
_CHANGED = pytest.StashKey[list[str]]()
_AWAY = pytest.StashKey[dict[str, int]]()
_NOTE = pytest.StashKey[str]()


def changed_files(root: Path, since: str = "1 hour ago") -> set[str]:
    """What commits since then have touched, and what is changed or new and not committed; relative to `root`."""
    commands = (
        ["log", f"--since={since}", "--name-only", "--pretty=format:"],
        ["diff", "--name-only", "HEAD"],
        ["ls-files", "--others", "--exclude-standard"],
    )
    lines: list[str] = []
    for command in commands:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise pytest.UsageError(f"--affected needs a git repository with a commit: {done.stderr.strip()}")
        lines += done.stdout.splitlines()
    return {line for line in lines if line}


def imported(file: Path, modules: Iterable[str]) -> set[str]:
    """Which of `modules` a file imports, where it does; `resect.lesion` counts as the module that defines it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "resect":
            public = getattr(resect, node.attr, None)
            names.add(public.__name__ if isinstance(public, ModuleType) else getattr(public, "__module__", ""))
    return names & set(modules)


def distances(root: Path, changed: Iterable[str]) -> dict[str, int]:
    """For every module and file of tests that reaches a changed one by its imports: how many imports away it is."""
    import grimp

    graph = grimp.build_graph("resect", exclude_type_checking_imports=True, cache_dir=None)
    for importer, package in (("resect.cli", "resect.cli"), ("resect.report.faces", "resect.report")):
        for module in graph.find_children(package) - {importer}:  # which are imported by name
            graph.add_import(importer=importer, imported=module)
    importers = {module: graph.find_modules_that_directly_import(module) for module in graph.modules}
    tests = {file.stem: file for file in (root / "tests").glob("*.py")}
    for name, file in tests.items():
        conftest = {"conftest"} if name.startswith("test_") else set()
        for module in imported(file, {*graph.modules, *tests}) | conftest:
            importers.setdefault(module, set()).add(name)

    near = {module for name in changed for module in _modules(Path(name), importers.keys() | tests)}
    found, steps = dict.fromkeys(near, 0), 0
    while near:
        near, steps = {importer for module in near for importer in importers.get(module, ())} - found.keys(), steps + 1
        found |= dict.fromkeys(near, steps)
    return found


def _modules(file: Path, known: Iterable[str]) -> set[str]:
    """The module that a file is, or those beside it if it is none: they read it."""
    if file.parts[0] == "tests":
        return {file.stem} & set(known)
    if file.parts[:2] != ("src", "resect"):
        return set()
    if file.suffix == ".py":
        return {".".join(file.with_suffix("").parts[1:]).removesuffix(".__init__")} & set(known)
    package = next(name for folder in file.parents if (name := ".".join(folder.parts[1:])) in known)
    return {name for name in known if name == package or name.rpartition(".")[0] == package}


def chosen(tests: Mapping[str, int], seconds: Mapping[str, float], limit: float) -> list[str]:
    """Of tests with their distances, the near and quick ones that take `limit` seconds, in that order.

    Args:
        seconds: that each took before; two are taken for the others.
    """
    taken, total = [], 0.0
    for test in sorted(tests, key=lambda test: (tests[test], seconds.get(test, _USUAL))):
        total += seconds.get(test, _USUAL)
        if total > limit:
            break
        taken.append(test)
    return taken


class Seconds:
    """Keeps in pytest's cache how long every test took."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.took = config, defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[report.nodeid] += report.duration

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if cache := getattr(self.config, "cache", None):  # -p no:cacheprovider leaves none
            cache.set(_CACHE, cache.get(_CACHE, {}) | self.took)
        if self.config.getoption("affected") and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--affected", type=float, metavar="SECONDS", help="Only what changes of the last hour can break.")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Seconds(config))
    if config.getoption("affected"):
        given = getattr(config, "workerinput", {}).get("changed")  # all processes must choose alike
        config.stash[_CHANGED] = sorted(changed_files(config.rootpath)) if given is None else given


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    if node.config.getoption("affected"):
        node.workerinput["changed"] = node.config.stash[_CHANGED]


def _away(config: pytest.Config) -> dict[str, int]:
    if _AWAY not in config.stash:
        config.stash[_AWAY] = distances(config.rootpath, config.stash[_CHANGED])
    return config.stash[_AWAY]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.getoption("affected") and collection_path.suffix == ".py" and collection_path.stem not in _away(config):
        return True  # without the seconds that its imports take
    return None


@pytest.hookimpl(trylast=True)  # slow tests have gone already
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    limit = config.getoption("affected")
    if not limit:
        return
    away = _away(config)
    can_break = {item.nodeid: away[item.path.stem] for item in items if item.path.stem in away}
    places = {test: i for i, test in enumerate(chosen(can_break, config.cache.get(_CACHE, {}), limit))}
    left = Counter(test.partition("::")[0] for test in can_break if test not in places)
    note = f"{len(places)} of {len(can_break)} tests that the last hour's changes can break."
    if left:
        note += f" Left out, for {limit:g} s: {', '.join(f'{count} of {file}' for file, count in left.items())}."
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in places])
    items[:] = sorted((item for item in items if item.nodeid in places), key=lambda item: places[item.nodeid])
    config.stash[_NOTE] = note
    if hasattr(config, "workeroutput"):
        config.workeroutput["note"] = note


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    if note := getattr(node, "workeroutput", {}).get("note"):
        node.config.stash[_NOTE] = note


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if note := config.stash.get(_NOTE, ""):
        terminalreporter.write_line(note)
