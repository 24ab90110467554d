"""Files of a user's own clone of somebody else's code, kept read-only in the user's cache for side services to run.

``environment/services/NAME/clone.json`` names them: {"key": digest of names and contents, "of": what they are of}. The
service finds them at $CLONE. They are not copied into tasks: they are large, and not ours to pass on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from palmette.cache import cache_dir, made_once
from palmette.errors import UserError

NOTE = "clone.json"


def keep(files: Mapping[str, Path], *, of: str) -> str:
    """Keep files (path below $CLONE -> where it is) and return the text of their clone.json."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    key = digest.hexdigest()[:16]

    def copy(into: Path) -> None:
        for name, path in files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, into / name)

    made_once(cache_dir("clones", key), copy)
    return json.dumps({"key": key, "of": of}) + "\n"


def kept(note: Path) -> Path:
    """Return the directory that a clone.json names. Raises `UserError` where it is not on this machine."""
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        key, of = str(said["key"]), str(said["of"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{note}: must be an object with key and of: {error}") from None
    target = cache_dir("clones", Path(key).name)
    if not target.is_dir():
        raise UserError(f"{note}: {target} is not here; import the tasks again with --clone and {of}")
    return target
