"""Jobs over files: archives, permissions, copies, links, checksums, patches."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

from palmette.envs.checks import Check, absent, text
from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import Job, lines, silent


def configuration_archive(n: Names) -> Job:
    """Take some members out of an archive and pack them anew."""
    folder, pack, out, top = n.word(), n.word() + ".tar.gz", n.word() + ".tar.gz", n.word()
    wanted = {f"{n.word()}.conf": n.word() + " = 1\n" for _ in range(3)}
    others = {f"{n.word()}.log": n.word() + "\n", f"{n.word()}.conf.bak": n.word() + "\n"}
    places = {name: f"{top}/{n.word()}/{name}" for name in (*wanted, *others)}
    inside, outside = f"{folder}/{pack}", f"{folder}/{out}"
    archive = _tar_gz({places[name]: body for name, body in sorted((wanted | others).items())})
    return Job(
        family="configuration_archive",
        specification=f"{inside} is a gzipped tar. Make the gzipped tar {outside} of exactly those of its files whose "
        f"names end in .conf, all at the top of the new archive without directories. Leave {inside} as it is.",
        request=f"Take the .conf files out of {inside} and pack them, without their directories, into {outside}.",
        colloquial=f"Can you get me just the .conf files from {inside}? Flat, in {outside}.",
        files={inside: archive},
        commands=silent(
            f"mkdir {folder}/flat {folder}/all && tar -xzf {inside} -C {folder}/all",
            f"find {folder}/all -name '*.conf' -exec mv {{}} {folder}/flat/ \\;",
            f"cd {folder}/flat && tar -czf ../{out} *.conf && cd .. && rm -r flat all && cd ..",
        ),
        checks=(
            {"kind": "archive", "path": outside, "files": wanted},
            {"kind": "bytes", "path": inside, "hex": archive.hex()},
        ),
    )


def permissions(n: Names) -> Job:
    """Set the permissions of a tree by kind."""
    folder = n.word()
    kinds = {".sh": "750", ".key": "600", ".html": "644"}
    names = [f"{n.word()}/{n.word()}{ending}" for ending in kinds for _ in range(2)]
    modes = {f"{folder}/{name}": n.rng.choice((0o777, 0o600, 0o640, 0o755)) for name in names}
    checks: list[Check] = [
        {"kind": "mode", "path": f"{folder}/{name}", "mode": kinds["." + name.rpartition(".")[2]]} for name in names
    ]
    checks += [{"kind": "mode", "path": f"{folder}/{name.partition('/')[0]}", "mode": "755"} for name in names]
    return Job(
        family="permissions",
        specification=f"Below {folder}, give all directories mode 755, files ending in .sh mode 750, files ending "
        "in .key "
        "mode 600 and files ending in .html mode 644.",
        request=f"Fix the permissions below {folder}: directories 755, .sh 750, .key 600, .html 644.",
        colloquial=f"Permissions under {folder} are a mess. dirs 755, scripts (.sh) 750, keys only for me (600), "
        "html 644 "
        "please.",
        files={f"{folder}/{name}": f"{n.word()}\n" for name in names},
        modes=modes,
        commands=silent(
            f"find {folder} -type d -exec chmod 755 {{}} +",
            *(f"find {folder} -name '*{ending}' -exec chmod {mode} {{}} +" for ending, mode in kinds.items()),
        ),
        checks=tuple(checks),
    )


def duplicates(n: Names) -> Job:
    """Remove copies, whatever they are called."""
    folder, out = n.word(), n.word() + ".txt"
    texts = [n.word() + "\n" + n.word() + "\n" for _ in range(4)]
    paths = sorted(f"{n.word()}/{n.word()}.dat" for _ in range(9))
    held = {path: texts[i] if i < 4 else n.rng.choice(texts) for i, path in enumerate(n.rng.sample(paths, 9))}
    kept, removed = dict[str, str](), list[str]()
    for path in paths:
        if held[path] in kept.values():
            removed.append(path)
        else:
            kept[path] = held[path]
    want = lines(f"{folder}/{path}" for path in removed)
    return Job(
        family="duplicates",
        specification=f"Among the files below {folder}, of every group with the same content keep the one whose path "
        f"comes first alphabetically and delete the others. Write the deleted paths (as {folder}/...), sorted, one a "
        f"line, to {out} in the work directory.",
        request=f"Delete duplicate files below {folder}, keeping of each content the alphabetically first path, and "
        f"list the deleted paths, sorted, in {out}.",
        colloquial=f"There are lots of identical copies in {folder}. Keep one of each (first by path), bin the rest, "
        f"and note what you deleted (sorted paths) in {out}.",
        files={f"{folder}/{path}": body for path, body in held.items()},
        commands=silent(
            f"find {folder} -type f | LC_ALL=C sort | xargs sha256sum | awk 'seen[$1]++ {{ print $2 }}' > {out}",
            f"xargs rm < {out}",
        ),
        checks=({"kind": "tree", "path": folder, "files": kept}, text(out, want)),
        outputs={out: want},
    )


def patch(n: Names) -> Job:
    """Apply a patch of which one file has moved."""
    folder, old, new, fix = n.word(), n.word() + ".cfg", n.word() + ".cfg", n.word() + ".patch"
    before, after, first, last = n.word(), n.word(), n.word(), n.word()
    body, want = lines([first, before, last]), lines([first, after, last])
    diff = f"--- a/{old}\n+++ b/{old}\n@@ -1,3 +1,3 @@\n {first}\n-{before}\n+{after}\n {last}\n"
    return Job(
        family="patch",
        specification=f"{folder}/{fix} is a unified diff for a file {old} that is called {new} now. Apply it to "
        f"{folder}/{new}, then delete the patch; no file {old} and no leftovers (.orig, .rej) may remain in {folder}.",
        request=f"Apply {folder}/{fix} to {folder}/{new} (the patch still says {old}) and delete the patch file.",
        colloquial=f"{folder}/{fix} doesn't apply because {old} got renamed to {new}. Get the change in there and drop "
        "the patch.",
        files={f"{folder}/{new}": body, f"{folder}/{fix}": diff},
        commands=silent(
            f"sed -i 's/{old}/{new}/' {folder}/{fix}",
            f"(cd {folder} && GIT_DIR=/nonexistent git apply {fix})",
            f"rm {folder}/{fix}",
        ),
        checks=({"kind": "tree", "path": folder, "files": {new: want}},),
    )


def release(n: Names) -> Job:
    """Switch a link to the newest release, by version and not by alphabet."""
    folder, name = n.word(), n.word()
    major = n.rng.randint(1, 4)
    versions = [f"{major}.{minor}.{n.rng.randint(0, 12)}" for minor in (2, 9, 10, n.rng.randint(11, 30))]
    newest = max(versions, key=lambda v: tuple(map(int, v.split("."))))
    files = {f"{folder}/releases/{v}/{name}": f"{n.word()}\n" for v in n.rng.sample(versions, 4)}
    return Job(
        family="release",
        specification=f"The directories in {folder}/releases are named by version MAJOR.MINOR.PATCH. Make "
        f"{folder}/current "
        f"a symbolic link to the newest of them by number, and write that version to {folder}/VERSION. Delete the "
        "oldest.",
        request=f"Point the symlink {folder}/current at the highest version in {folder}/releases, write the version to "
        f"{folder}/VERSION, and delete the lowest one.",
        colloquial=f"Roll {folder} forward: current -> latest in releases/ (mind 1.10 > 1.9), put the number in "
        "VERSION "
        "there, and throw out the oldest release.",
        files=files,
        commands=silent(
            f"v=$(ls {folder}/releases | sort -V | tail -n 1); ln -sfn releases/$v {folder}/current; "
            f"echo $v > {folder}/VERSION",
            f"rm -r {folder}/releases/$(ls {folder}/releases | sort -V | head -n 1)",
        ),
        checks=(
            {"kind": "link", "path": f"{folder}/current", "target": f"{folder}/releases/{newest}"},
            text(f"{folder}/VERSION", newest),
            absent(f"{folder}/releases/{versions[0]}"),
            *(text(path, body) for path, body in files.items() if f"/{versions[0]}/" not in path),
        ),
        outputs={f"{folder}/VERSION": newest + "\n"},
    )


def checksums(n: Names) -> Job:
    """Find the files that are not what their checksums say."""
    folder, out = n.word(), n.word() + ".txt"
    bodies = {f"{n.word()}.bin": f"{n.word()} {n.rng.randint(100, 999)}\n" for _ in range(6)}
    spoiled = sorted(n.rng.sample(list(bodies), 2))
    sums = lines(f"{hashlib.sha256(body.encode()).hexdigest()}  {name}" for name, body in bodies.items())
    held = {name: body + ("x\n" if name in spoiled else "") for name, body in bodies.items()}
    want = lines(spoiled)
    return Job(
        family="checksums",
        specification=f"{folder}/SHA256SUMS lists the SHA-256 sums of files in {folder}. Move every file that does not "
        f"match into {folder}/bad and write the names of these, sorted, one a line, to {folder}/{out}.",
        request=f"Check the files in {folder} against {folder}/SHA256SUMS, move those that fail into {folder}/bad, and "
        f"list their names, sorted, in {folder}/{out}.",
        colloquial=f"Some downloads in {folder} are corrupt (SHA256SUMS is there). Quarantine them in {folder}/bad and "
        f"tell me which in {folder}/{out}, sorted.",
        files={f"{folder}/{name}": body for name, body in held.items()} | {f"{folder}/SHA256SUMS": sums},
        commands=silent(
            f"cd {folder} && mkdir bad && (sha256sum -c SHA256SUMS 2> /dev/null || true) | "
            f"sed -n 's/: FAILED$//p' | LC_ALL=C sort > {out} && xargs -I@ mv @ bad/ < {out} && cd .."
        ),
        checks=(
            text(f"{folder}/{out}", want),
            {"kind": "tree", "path": f"{folder}/bad", "files": {name: held[name] for name in spoiled}},
            *(absent(f"{folder}/{name}") for name in spoiled),
            *(text(f"{folder}/{name}", body) for name, body in held.items() if name not in spoiled),
        ),
        outputs={f"{folder}/{out}": want},
    )


def _tar_gz(members: dict[str, str]) -> bytes:
    """Return a gzipped tar of these files, the same bytes every time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(body.encode()), 0o644
            tar.addfile(info, io.BytesIO(body.encode()))
    return gzip.compress(raw.getvalue(), mtime=0)
