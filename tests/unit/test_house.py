"""The rules of the house, checked on the tree itself: budgets, names, import rules, generated code."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("gestalt", "agent", "coordinator", "plugins", "demo", "bench")
FUNCTION_USUAL, FUNCTION_MAX = 25, 60
MODULE_USUAL, MODULE_MAX = 200, 500
METHODS_MAX = 20
PATCHES_A_TEST = 0.2
_PATCH = re.compile(r"\b(?:monkeypatch\.setattr|mock\.patch|mocker\.patch|MagicMock\(|Mock\(|AsyncMock\()")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules(*folders: str) -> dict[str, str]:
    """Return our own modules by path: no generated ones, and none twice through the links in gestalt/."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name and not any(parent.is_symlink() for parent in path.parents if parent != ROOT):
                found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    return found


def functions(text: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, Function))


def length(function: Function) -> int:
    """Return the lines of a function, its decorators and docstring aside: the contract is not what makes one long."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_functions_are_short() -> None:
    sizes = {
        f"{path}:{item.lineno} {item.name}": length(item) for path, text in modules(*PRODUCT, "tests").items() for item in functions(text)
    }
    too_long = {name: size for name, size in sizes.items() if size > FUNCTION_MAX}
    assert not too_long
    longer = sorted(((size, name) for name, size in sizes.items() if size > FUNCTION_USUAL), reverse=True)
    assert len(longer) <= len(sizes) * 0.1, f"{len(longer)} of {len(sizes)} functions have over {FUNCTION_USUAL} lines: {longer}"


def test_modules_are_small() -> None:
    sizes = {path: text.count("\n") for path, text in modules(*PRODUCT, "tests").items()}
    too_long = {path: size for path, size in sizes.items() if size > MODULE_MAX}
    assert not too_long
    longer = [path for path, size in sizes.items() if size > MODULE_USUAL]
    assert len(longer) <= len(sizes) / 2, longer


def test_classes_have_few_methods() -> None:
    """Classes of tests, such as the contract suites, are lists and may be long."""
    crowded = {}
    for path, text in modules(*PRODUCT).items():
        for item in ast.walk(ast.parse(text)):
            if isinstance(item, ast.ClassDef):
                count = sum(isinstance(member, Function) for member in item.body)
                if count > METHODS_MAX:
                    crowded[f"{path} {item.name}"] = count
    assert not crowded


def test_no_module_has_a_name_that_says_nothing() -> None:
    forbidden = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in modules(*PRODUCT, "tests") if forbidden & {Path(path).stem, *Path(path).parent.parts}]


def test_test_modules_have_names_of_their_own() -> None:
    names: dict[str, list[str]] = {}
    for path in modules("tests"):
        if Path(path).name.startswith("test_"):
            names.setdefault(Path(path).name, []).append(path)
    assert not {name: paths for name, paths in names.items() if len(paths) > 1}


def test_tests_use_the_real_thing() -> None:
    texts = modules("tests").values()
    tests = sum(item.name.startswith("test_") for text in texts for item in functions(text))
    patches = sum(len(_PATCH.findall(text)) for text in texts) - 1  # the pattern above
    assert patches <= tests * PATCHES_A_TEST, f"{patches} patches in {tests} tests"


def imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_parts_are_imported_by_the_one_name() -> None:
    """`import agent` would find the same code a second time, under another name."""
    parts = {"agent", "coordinator", "plugins", "proto"}
    wrong = [
        f"{path}: {name}" for path, text in modules(*PRODUCT, "tests").items() for name in imports(text) if name.split(".")[0] in parts
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("docker", r"plugins/runtime/docker\w*\.py|demo/\w+\.py|bench/.*"),
        ("subprocess", r"gestalt/shell\.py|demo/\w+\.py|bench/.*"),
        ("kazoo", r"gestalt/zk/client\.py|bench/.*"),
    ],
)
def test_choke_points_are_owned(library: str, owners: str) -> None:
    """One place imports docker, one starts subprocesses, one imports kazoo; the demo and the benchmarks are programs of their own."""
    wrong = [
        path
        for path, text in modules(*PRODUCT).items()
        if library in {name.split(".")[0] for name in imports(text)} and not re.fullmatch(owners, path)
    ]
    assert not wrong


def complaint(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_import_rules_hold() -> None:
    assert not complaint(str(ROOT / ".venv/bin/lint-imports"), "--no-cache")


def test_generated_code_is_up_to_date() -> None:
    assert not complaint(str(ROOT / "scripts/proto-check.sh"))
