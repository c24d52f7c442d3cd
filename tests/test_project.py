"""What must stay true of the whole: the locks, the version, who imports whom, what an import costs."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import glimprouter

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "glimprouter"
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
HASHED_LOCKS = [lock for lock in LOCKS if lock.stem != "lab"]

LAYER = {
    "errors": 0, "config": 0, "models": 0, "stats": 0, "mixtures": 0,
    "flow": 1,
    "policies": 2, "engines": 2,
    "router": 3, "pair": 3, "strategies": 3, "doctor": 3, "glimprouter": 3,
    "gateway": 4, "evaluate": 4, "calibrate": 4,
    "cli": 5, "__main__": 5,
}  # fmt: skip
STRANGERS = {("policies", "engines"), ("engines", "policies")}
IMPORT_BUDGET_MS = 100
HEAVY = {"torch", "transformers", "starlette", "uvicorn", "numpy"}


def requirements_of(lock: Path) -> list[str]:
    """The logical lines of a lock: continuations joined, comments gone."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]


def part_of(module: str) -> str:
    """The part of the package that a dotted module name belongs to: `glimprouter.flow.steps` is in `flow`."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[1] != "__init__" else "glimprouter"


def name_of(path: Path) -> str:
    return ".".join(["glimprouter", *path.relative_to(PACKAGE).with_suffix("").parts])


def own_imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, anywhere in it, as a dotted name."""
    here = name_of(path).split(".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "glimprouter")
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source == "glimprouter":
                yield from (from_root(alias.name) for alias in node.names if alias.name != "__version__")
            elif source.split(".")[0] == "glimprouter":
                yield source


def from_root(name: str) -> str:
    is_module = (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()
    return f"glimprouter.{name}" if is_module else "glimprouter"


def may_import(importer: str, imported: str) -> bool:
    return (importer, imported) not in STRANGERS and LAYER[imported] <= LAYER[importer]


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_locks_are_there() -> None:
    assert [lock.stem for lock in LOCKS] == ["ask", "engines", "gym", "lab", "test"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_lock_pins_every_requirement_and_names_no_place(lock: Path) -> None:
    assert "://" not in lock.read_text(encoding="utf-8")
    for requirement in requirements_of(lock):
        assert re.match(r"[a-z0-9.-]+==[\w.!+]+( |$)", requirement), requirement


@pytest.mark.parametrize("lock", HASHED_LOCKS, ids=lambda lock: lock.stem)
def test_lock_hashes_every_requirement_and_holds_no_torch(lock: Path) -> None:
    for requirement in requirements_of(lock):
        assert "--hash=sha256:" in requirement, requirement
        assert not re.match(r"torch|nvidia|triton", requirement), requirement


def test_what_is_in_two_locks_is_in_one_version() -> None:
    ask, test, gym = (
        {re.split(r"[ ;]", line)[0] for line in requirements_of(ROOT / "requirements" / f"{name}.lock")}
        for name in ("ask", "test", "gym")
    )
    assert ask <= test
    assert not {line.split("==")[0] for line in gym} & {line.split("==")[0] for line in test}


def test_ask_lock_covers_the_dependencies() -> None:
    locked = {line.split("==")[0] for line in requirements_of(ROOT / "requirements" / "ask.lock")}
    wanted = [re.match(r"[\w-]+", line) for line in project()["dependencies"]]
    assert {match[0] for match in wanted if match} <= locked


def test_version_is_that_of_pyproject() -> None:
    assert glimprouter.__version__ == project()["version"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_from_its_left(path: Path) -> None:
    importer = part_of(name_of(path))
    assert importer in LAYER, f"{importer} has no place in the import rule"
    wrong = {imported for imported in own_imports(path) if not may_import(importer, part_of(imported))}
    assert not wrong, f"{importer} may not import {wrong}"


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("flow", "config", True),
        ("flow", "engines", False),
        ("engines", "policies", False),
        ("router", "engines", True),
        ("router", "gateway", False),
        ("stats", "flow", False),
        ("cli", "evaluate", True),
    ],
)
def test_import_rule_is_the_drawn_one(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed


def test_import_loads_nothing_heavy() -> None:
    loaded = set(run_python("import sys, glimprouter; print(*sys.modules)").split())
    assert not loaded & HEAVY


def test_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import glimprouter; print((time.perf_counter() - t) * 1e3)"
    assert min(float(run_python(code)) for _ in range(5)) < IMPORT_BUDGET_MS


def test_no_module_is_named_utils() -> None:
    assert not [path for top in ("src", "lab", "tests") for path in (ROOT / top).rglob("utils.py")]


def test_every_public_name_can_be_had_and_nothing_else_is_promised() -> None:
    assert sorted(glimprouter.__all__) == glimprouter.__all__
    homes = {name for names in glimprouter._HOMES.values() for name in names}
    assert homes | {"Routing", "Sampling", "__version__"} == set(glimprouter.__all__)
    assert all(getattr(glimprouter, name) is not None for name in glimprouter.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Rooter'"):
        glimprouter.Rooter  # noqa: B018
