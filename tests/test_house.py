"""The house rules, held by a test: who imports whom, what stays light, and how long things may get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from palmette.toml import dump_toml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "palmette"

# An area imports areas on lower rows only. Level 0 stands on `errors`; `run` is run.py and its neighbours.
LEVELS: dict[str, int] = {
    "errors": -1,
    **dict.fromkeys(("run", "chat", "evidence"), 0),
    **dict.fromkeys(("trajectory", "sandbox", "model", "marl"), 1),
    **dict.fromkeys(("engine", "report"), 2),
    **dict.fromkeys(("gateway", "envs", "scaffolds"), 3),
    "rollout": 4,
    "evaluate": 5,
    "train": 6,
    "team": 7,
    "cli": 8,
}
PART_OF = {"toml": "run", "config": "run", "progress": "run", "registry": "run", "cache": "run"}
PART_OF |= dict.fromkeys(("commands", "doctor", "__main__"), "cli")
SLIM = ("chat", "trajectory", "sandbox", "gateway", "envs", "scaffolds", "rollout", "evaluate", "report", "run", "cli")
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
PRINTING = ("cli", "report")  # areas whose work is to write on standard output

FILE_LINES, FILE_LINES_LIKED = 400, 300
FUNCTION_LINES, FUNCTION_LINES_LIKED = 80, 60


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def area_of(parts: tuple[str, ...]) -> str | None:
    """Return the area of a module path below the package, such as ("chat", "template"); None for the package itself."""
    if not parts or parts[0] == "__init__":
        return None
    return PART_OF.get(parts[0], parts[0])


def imports_of(text: str, parts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Yield (line, area) of every import of our own in a module, wherever it stands in the text."""
    here = ("palmette", *parts)
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) + "." if node.level else ""
            origin = (base + (node.module or "")).rstrip(".")
            names = [f"{origin}.{alias.name}" for alias in node.names] if origin == "palmette" else [origin]
        for name in names:
            parts = tuple(name.split("."))
            if parts[0] == "palmette" and (area := area_of(parts[1:])) and not area.startswith("__"):
                yield node.lineno, area


def test_an_area_imports_only_areas_on_lower_rows():
    wrong = []
    for path in modules():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        area = area_of(parts)
        if area is None:
            continue
        assert area in LEVELS, f"{path.relative_to(ROOT)}: '{area}' has no place in the table of DESIGN section 3"
        for line, other in imports_of(path.read_text(), parts):
            if other != area and LEVELS.get(other, 99) >= LEVELS[area]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {area} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_the_import_check_sees_every_kind_of_import():
    text = (
        "from typing import TYPE_CHECKING\n"
        "import palmette.engine.api\n"
        "from palmette import train\n"
        "if TYPE_CHECKING:\n    from palmette.rollout.run import Rollout\n"
        "def f():\n    from ..evaluate import metrics\n    from .. import report\n"
    )
    found = sorted(imports_of(text, ("chat", "sample")))
    assert [area for _, area in found] == ["engine", "train", "rollout", "evaluate", "report"]


def test_light_areas_import_without_torch_and_transformers():
    names = []
    for path in modules():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if area_of(parts) in SLIM and parts[-1] != "__main__":
            names.append(".".join(("palmette", *(part for part in parts if part != "__init__"))))
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-800:]


def test_files_and_functions_stay_short():
    too_long, longish = [], []
    for path in modules():
        text = path.read_text()
        sizes = [(str(path.relative_to(ROOT)), text.count("\n"), FILE_LINES, FILE_LINES_LIKED)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                sizes.append((name, (node.end_lineno or 0) - node.lineno + 1, FUNCTION_LINES, FUNCTION_LINES_LIKED))
        too_long += [f"{name}: {lines} lines" for name, lines, limit, _ in sizes if lines > limit]
        longish += [f"{name}: {lines} lines" for name, lines, limit, liked in sizes if liked < lines <= limit]
    print("longer than the house likes:", *longish, sep="\n  ")
    assert not too_long, "\n".join(too_long)


def test_names_say_what_is_inside():
    vague = [str(path.relative_to(ROOT)) for path in modules() if VAGUE_NAMES & set(path.with_suffix("").parts[-2:])]
    assert not vague


def test_everything_public_has_a_docstring():
    bare = []
    for path in modules():
        tree = ast.parse(path.read_text())
        name = str(path.relative_to(ROOT))
        if not ast.get_docstring(tree) and not (path.name == "__init__.py" and not tree.body):
            bare.append(name)
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            # A check of a conformance suite is like a test: its name is the sentence.
            is_public = not node.name.startswith("_") and not ("conformance" in name and node.name.startswith("check_"))
            if is_public and not ast.get_docstring(node):
                bare.append(f"{name}:{node.lineno} {node.name}")
    assert not bare, "\n".join(bare)


def test_only_commands_and_reports_print():
    loud = []
    for path in modules():
        if area_of(path.relative_to(PACKAGE).with_suffix("").parts) in PRINTING:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                loud.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not loud, loud


def tracked_texts() -> Iterator[tuple[str, str]]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listing.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in {".safetensors", ".png", ".parquet"}:
            yield name, path.read_text(encoding="utf-8", errors="replace")


def test_no_tracked_file_names_this_machine_or_a_package_index():
    forbidden = {
        "a path of one machine": re.compile("/work" + r"/(?:main|shared|\.)|bash_" + "jobs|/tmp/" + "brief"),
        "a package index": re.compile(
            r"--(?:extra-)?index-" + r"url|https?://(?!127\.|localhost)[^\s\"'<>]+/simple\b|find-" + "links"
        ),
        "a resolved package": re.compile(r"\"resolved\": \"http" + r"|\s@ (?:https?|file)://"),
    }
    found = [
        f"{name}: {what}: {match[0]}"
        for name, text in tracked_texts()
        for what, pattern in forbidden.items()
        if (match := pattern.search(text))
    ]
    assert not found, "\n".join(found)


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line)] == []
    assert lines == sorted(set(lines), key=str.lower)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_loads_and_survives_being_written_out(path, tmp_path):
    from palmette.train.recipe import read_recipe

    recipe = read_recipe(path, ())
    copy = tmp_path / "config.toml"
    copy.write_text(dump_toml(recipe))
    assert read_recipe(copy, ()) == recipe


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
