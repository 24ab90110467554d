"""Patches: git applies them, and they are what the agent changed."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.envs.build import build_tasks
from palmette.envs.patch import Files, patch_between, patch_of
from palmette.envs.prepare import prepare, spec_for, work_directory
from palmette.sandbox.fake import FakeHost

LINES = st.lists(st.sampled_from(["a", "b", "", " c", "-d", "+e", "é\r", "x\x0cy", "\\ No newline"]), max_size=6)
TEXT = st.tuples(LINES, st.booleans()).map(lambda one: ("\n".join(one[0]) + "\n" * one[1]).encode())
TREES = st.dictionaries(
    st.sampled_from(["a.py", "b", "dir/c.txt", "dir/d e"]), st.tuples(TEXT, st.booleans()), max_size=4
)


def _write(root: Path, files: Files) -> None:
    for name, (content, executable) in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if executable else 0o644)


def _read(root: Path) -> dict[str, tuple[bytes, bool]]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.read_bytes(), bool(path.stat().st_mode & 0o100)) for path in files}


@settings(max_examples=20, deadline=None)
@given(TREES, TREES)
def test_git_turns_the_one_into_the_other(before: Files, after: Files) -> None:
    patch = patch_between(before, after)
    assert bool(patch) == (before != after)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        _write(root, before)
        if patch:
            done = subprocess.run(
                ["git", "apply", "--whitespace=nowarn"], input=patch.encode(), cwd=root, capture_output=True
            )
            assert done.returncode == 0, (done.stderr, patch)
        assert _read(root) == after


def test_what_is_no_text_or_of_no_interest_is_left_out() -> None:
    after = {"x.bin": (b"\xff\x00", False), ".git/HEAD": (b"ref\n", False), "p/__pycache__/m.pyc": (b"x\n", False)}
    assert patch_between({}, after) == ""
    assert patch_between({}, after | {"y": (b"1\n", False)}).startswith("diff --git a/y b/y\nnew file mode 100644\n")


async def test_a_patch_is_what_was_done_in_the_sandbox(tmp_path: Path) -> None:
    [task] = build_tasks("swe", tmp_path, count=1, tiers=(1,), split="train", seed=3)
    host = FakeHost()
    sandbox = await host.start(spec_for(task, owner="test"))
    await prepare(sandbox, task)
    assert await patch_of(task, sandbox) == ""
    name, (content, _) = next(one for one in work_directory(task).items() if one[0].endswith(".py"))
    await sandbox.write(f"{task.workdir}/{name}", content + b"# more\n")
    await sandbox.write(f"{task.workdir}/new.txt", b"hello")
    patch = await patch_of(task, sandbox)
    assert f"--- a/{name}\n+++ b/{name}\n" in patch
    assert "\n+# more\n" in patch
    assert "+++ b/new.txt\n@@ -0,0 +1 @@\n+hello\n\\ No newline at end of file\n" in patch
    await host.close()
