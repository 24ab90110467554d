"""Files of a user's own clone of somebody else's code, kept read-only in the user's cache for side services to run.

``environment/services/NAME/clone.json`` names them: {"key": digest of names and contents, "of": what they are of}. The
service finds them at $CLONE. They are not copied into tasks: they are large, and not ours to pass on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from palmette.errors import UserError

NOTE = "clone.json"


def keep(files: Mapping[str, Path], *, of: str) -> str:
    """Keep files (path below $CLONE -> where it is) and return the text of their clone.json."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    key = digest.hexdigest()[:16]
    target = _clones() / key
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        try:
            for name, path in files.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, scratch / name)
            scratch.chmod(0o755)
            os.rename(scratch, target)
        except OSError:
            if not target.is_dir():  # nobody else made it meanwhile
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return json.dumps({"key": key, "of": of}) + "\n"


def kept(note: Path) -> Path:
    """Return the directory that a clone.json names. Raises `UserError` where it is not on this machine."""
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        key, of = str(said["key"]), str(said["of"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{note}: must be an object with key and of: {error}") from None
    target = _clones() / Path(key).name
    if not target.is_dir():
        raise UserError(f"{note}: {target} is not here; import the tasks again with --clone and {of}")
    return target


def _clones() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.path.abspath(home)) / "palmette" / "clones"
