"""Jobs over git repositories."""

from __future__ import annotations

from palmette.envs.checks import git, text
from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import Job, lines, silent

_INIT = "git init -q -b main --template= . && git config user.name Dev && git config user.email dev@example.invalid"


def recover(n: Names) -> Job:
    """Bring back a file that an earlier commit has removed, as it was then."""
    folder, lost, other = n.word(), n.word() + ".txt", n.word() + ".txt"
    versions, notes = [lines(n.words(2)) for _ in range(3)], n.words(4)
    script = [_INIT]
    for version, note in zip(versions, notes, strict=False):
        script.append(f"printf '{_quoted(version)}' > {lost} && echo {note} >> {other}")
        script.append(f"git add -A && git commit -q -m 'Change {note}'")
    script += [f"git rm -q {lost}", "git commit -q -m 'Remove what nobody needs'"]
    script += [f"echo {notes[3]} >> {other}", f"git commit -q -a -m 'Add {notes[3]}'"]
    return Job(
        family="recover",
        specification=f"In the git repository {folder}, the file {lost} was deleted by an earlier commit. Restore "
        "it with "
        f"the content it had just before that, in one new commit on main with the message 'Restore {lost}'; nothing "
        "else changes and the old history stays.",
        request=f"Restore the deleted file {lost} in the git repository {folder} as it was just before its "
        "deletion, and "
        f"commit it with the message 'Restore {lost}'.",
        colloquial=f"Somebody nuked {lost} in the {folder} repo. Get the last version back and commit it as "
        f"'Restore {lost}'.",
        files={},
        histories={folder: "\n".join(script)},
        commands=silent(
            f"cd {folder} && git checkout -q $(git rev-list -n 1 HEAD -- {lost})^ -- {lost} "
            f"&& git commit -q -m 'Restore {lost}' && cd .."
        ),
        checks=(
            text(f"{folder}/{lost}", versions[2]),
            git(folder, "cat-file", "-p", f"main:{lost}", prints=versions[2]),
            git(folder, "cat-file", "-p", f"main:{other}", prints=lines(notes)),
            git(folder, "log", "--format=%s", "main", prints=_subjects(notes, f"Restore {lost}")),
        ),
    )


def blame(n: Names) -> Job:
    """Find the commit that brought a line in."""
    folder, path, out = n.word(), n.word() + ".conf", n.word() + ".txt"
    words = n.words(6)
    script, people = [_INIT], n.words(3)
    for number, word in enumerate(words):
        script.append(f"echo '{word} = {number}' >> {path} && git add {path}")
        script.append(f"git commit -q -m 'Add {word}' --author '{people[number % 3]} <a@example.invalid>'")
    k = n.rng.randrange(1, 5)
    want = f"{people[k % 3]}\nAdd {words[k]}\n"
    return Job(
        family="blame",
        specification=f"Find the commit in the git repository {folder} that added the line beginning with "
        f"'{words[k]}' to "
        f"{path}. Write two lines to {out} in the work directory: the name of its author, and its message.",
        request=f"Who added the setting {words[k]} to {path} in the git repository {folder}? Write the author's "
        "name and, "
        f"on a second line, the commit message to {out}.",
        colloquial=f"Who put {words[k]} into {folder}/{path}? Author and commit message (two lines) in {out} please.",
        files={},
        histories={folder: "\n".join(script)},
        commands=silent(f"git -C {folder} log -S '{words[k]} =' --format='%an%n%s' -- {path} > {out}"),
        checks=(text(out, want),),
        outputs={out: want},
    )


def merge(n: Names) -> Job:
    """Merge a branch that conflicts, keeping both sides."""
    folder, path, branch = n.word(), n.word() + ".txt", n.word()
    top, ours, theirs, end, extra = n.word(), n.word(), n.word(), n.word(), n.word() + ".txt"
    script = [
        _INIT,
        f"printf '{top}\\nold\\n{end}\\n' > {path} && git add -A && git commit -q -m 'Begin'",
        f"git checkout -q -b {branch} && printf '{top}\\n{theirs}\\n{end}\\n' > {path} && echo {theirs} > {extra}",
        f"git add -A && git commit -q -m 'Work on {branch}'",
        f"git checkout -q main && printf '{top}\\n{ours}\\n{end}\\n' > {path} && git commit -q -a -m 'Work on main'",
    ]
    want = lines([top, ours, theirs, end])
    return Job(
        family="merge",
        specification=f"In the git repository {folder}, merge the branch {branch} into main with a merge commit. Where "
        f"{path} conflicts keep both lines, main's first. The work tree must be clean afterwards and on main.",
        request=f"Merge the branch {branch} into main in the git repository {folder}; resolve the conflict in "
        f"{path} by "
        "keeping both lines, main's first.",
        colloquial=f"{branch} in {folder} conflicts with main. Merge it in, keep both lines in {path} (ours on top).",
        files={},
        histories={folder: "\n".join(script)},
        commands=silent(
            f"cd {folder} && (git merge -q {branch} > /dev/null 2>&1 || true) && printf '{_quoted(want)}' > {path} "
            f"&& git add -A && git commit -q -m 'Merge {branch}' && cd .."
        ),
        checks=(
            text(f"{folder}/{path}", want),
            git(folder, "cat-file", "-p", f"main:{path}", prints=want),
            git(folder, "cat-file", "-p", f"main:{extra}", prints=theirs),
            git(folder, "rev-parse", "--abbrev-ref", "HEAD", prints="main"),
            git(folder, "log", "--format=%s", f"main^2..{branch}", prints=""),
            git(folder, "log", "-1", "--format=%s", "main^1", prints="Work on main"),
            git(folder, "log", "-1", "--format=%s", "main^2", prints=f"Work on {branch}"),
        ),
        outputs={f"{folder}/{path}": want},
    )


def _subjects(notes: list[str], last: str) -> str:
    """Return the messages of `recover`'s history, newest first."""
    subjects = [f"Change {note}" for note in notes[:3]] + ["Remove what nobody needs", f"Add {notes[3]}", last]
    return lines(reversed(subjects))


def _quoted(body: str) -> str:
    return body.replace("\n", "\\n")
