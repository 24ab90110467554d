"""Everything that docs/papers.md names is there: files, what they define, and tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
QUOTED = list(dict.fromkeys(re.findall(r"`([^`]+)`", TEXT)))
FILE = re.compile(r"(?P<path>[\w/]+\.py)(?:: (?P<names>[\w., ]+))?")


def _defined(path: Path, dotted: str) -> bool:
    """Return whether a file defines a function, a class, a method, a field or a constant."""
    source = path.read_text(encoding="utf-8")
    meant = r"^\s*(?:(?:async )?def|class) {0}\b|^\s*(?:self\.)?{0}\b.*[:=]"
    return all(re.search(meant.format(part), source, re.M) for part in dotted.split("."))


@pytest.mark.parametrize("quoted", [each for each in QUOTED if FILE.match(each) and not each.startswith("test")])
def test_code_that_is_named_exists(quoted: str) -> None:
    found = FILE.match(quoted)
    assert found
    path = ROOT / "palmette" / found["path"]
    assert path.is_file(), f"docs/papers.md names palmette/{found['path']}, which is not there"
    for name in (found["names"] or "").split(", "):
        dotted = name.partition("(")[0].strip()
        assert not dotted or _defined(path, dotted), f"docs/papers.md: {found['path']} does not define {dotted}"


@pytest.mark.parametrize("quoted", [each for each in QUOTED if each.startswith("test")])
def test_tests_that_are_named_exist(quoted: str) -> None:
    file, _, name = quoted.rpartition("::") if "::" in quoted else ("", "", quoted)
    if name.endswith(".py"):
        file, name = name, ""
    files = list((ROOT / "tests").rglob(Path(file).name if file else "test_*.py"))
    assert files, f"docs/papers.md names {file}, which is not there"
    found = any(f"def {name}(" in path.read_text(encoding="utf-8") for path in files)
    assert not name or found, f"docs/papers.md names {name}, which is not there"
