"""Files of a verifier that no task directory holds: half a megabyte in each of a thousand tasks would be too much.

`tests/npm.json` names them, {"FILE": {"package": "NAME@VERSION", "path": ..., "sha256": ...}}; they are fetched once
into the user's cache, before a sandbox is started, and put beside the tests when the task is graded. A file that lies
in `tests/` itself is taken as it is, so that a task can be made whole for a machine without a registry.
"""

from __future__ import annotations

import json
from pathlib import Path

from palmette.errors import UserError
from palmette.registry import npm_file


def brought(task: Path) -> dict[str, Path]:
    """Return what is to be put into /tests besides, by name. Blocks while something is fetched.

    Raises `UserError` for a broken list, and for a file that cannot be had.
    """
    path = task / "tests" / "npm.json"
    if not path.is_file():
        return {}
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        wanted = {str(name): (each["package"], each["path"], each["sha256"]) for name, each in listed.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{path}: not a list of files from npm: {type(error).__name__} {error}") from None
    for name in wanted:
        if Path(name).name != name or name in ("", ".", "..", "test.sh"):
            raise UserError(f"{path}: '{name}' is no name for a file beside the tests")
    return {name: npm_file(*each) for name, each in wanted.items() if not (task / "tests" / name).exists()}
