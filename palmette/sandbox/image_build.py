"""Makes images: from a directory, a tar, debootstrap, or a Dockerfile of the subset in `dockerfile.py`. No Docker.

The commands of a Dockerfile run once, as root behind the walls of `enter_image.py`, on a private copy of the base;
each result is kept under the hash of all that went into it, so files that begin alike share their beginning.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from palmette.errors import UserError
from palmette.sandbox.api import PathRefused
from palmette.sandbox.builder import Builder
from palmette.sandbox.dockerfile import Copy, Dockerfile, Run, read_dockerfile
from palmette.sandbox.files import Files
from palmette.sandbox.images import Config, Image, Images, copy_tree
from palmette.sandbox.layout import PATH

HOST, SCRATCH = "host", "scratch"  # bases that are not images: the machine's own system, and nothing
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def make_image(images: Images, source: str, *, network: bool = False) -> Image:
    """Make an image from what `source` means, or return the one that is there.

    ``debootstrap[:SUITE[+PACKAGE...]]``, a Dockerfile or a directory with one, a directory with a root
    file system, or a tar of one. Raises `UserError` in one line.
    """
    kind, _, rest = source.partition(":")
    path = Path(source)
    if kind == "debootstrap":
        return from_debootstrap(images, rest)
    if (path / "Dockerfile").is_file() or path.name.lower().startswith("dockerfile"):
        file = path / "Dockerfile" if path.is_dir() else path
        return from_dockerfile(images, read_dockerfile(file), network=network)
    if path.is_dir():
        return from_directory(images, path)
    if path.is_file():
        return from_tar(images, path)
    raise UserError(
        f"{source}: no such file or directory; name a Dockerfile, a directory, a tar, or debootstrap:bookworm"
    )


def from_directory(images: Images, path: Path) -> Image:
    """Copy a directory that holds a root file system. Raises `UserError` if it holds none."""
    if not _has_shell(path):
        raise UserError(f"{path} is no root file system: it has no /bin/sh and no Dockerfile")

    def fill(root: Path) -> Config:
        copy_tree(path, root)
        return Config(source=f"directory {path}")

    return images.add(_digest("directory", _tree(path)), None, fill)


def from_tar(images: Images, path: Path) -> Image:
    """Unpack a tar of a root file system, as 'docker export' writes it. Raises `UserError` if it is none."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with tarfile.open(path) as tar:
            names = {member.name.removeprefix("./") for member, _ in zip(tar, range(64), strict=False)}
    except tarfile.TarError as error:
        raise UserError(f"{path} is not a tar archive ({error}); name a tar, a directory or a Dockerfile") from None
    if {"manifest.json", "index.json"} & names:
        raise UserError(f"{path} is an archive of layers; make a flat one: docker export $(docker create IMAGE)")

    def fill(root: Path) -> Config:
        command = ["tar", "-x", "-p", "--numeric-owner", "--exclude=dev/*", "--exclude=./dev/*", "-f", str(path)]
        done = subprocess.run([*command, "-C", str(root)], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{path} cannot be unpacked: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        if not _has_shell(root):
            raise UserError(f"{path} is no root file system: it has no /bin/sh")
        return Config(source=f"tar {path.name}")

    return images.add(_digest("tar", digest), None, fill)


def from_debootstrap(images: Images, suite: str) -> Image:
    """Install a minimal Debian from the mirror this machine uses (half a minute); "SUITE+PACKAGE+PACKAGE" adds some.

    Raises `UserError` without root or without debootstrap, or quoting what it says.
    """
    program = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:{PATH}")
    if program is None:
        raise UserError("debootstrap is not installed: apt-get install debootstrap, or make the image from a tar")
    if os.geteuid():
        raise UserError("debootstrap needs root; make the image from a tar or a directory instead")
    name, *packages = (suite or _own_suite()).split("+")
    include = [f"--include={','.join(packages)}"] if packages else []

    def fill(root: Path) -> Config:
        command = [program, "--variant=minbase", *include, name, str(root), *_own_mirror()]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            said = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if line.startswith("E:")]
            raise UserError(f"debootstrap {name} failed: {said[-1] if said else f'exit {done.returncode}'}")
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        return Config(source=f"debootstrap {suite or name}")

    return images.add(_digest("debootstrap", name, *packages), None, fill)


def from_dockerfile(images: Images, dockerfile: Dockerfile, *, network: bool = False) -> Image:
    """Make the image of a Dockerfile, or return the one that is there. Blocks while commands run.

    Raises `UserError` naming the line whose command failed, or the base that is not there.
    """
    image = base = _base(images, dockerfile)
    groups = _groups(dockerfile.steps)
    with Builder() as builder:
        for number, group in enumerate(groups, 1):
            config = _config(dockerfile, image, group, last=number == len(groups))
            image = _step(images, dockerfile, image, group, config, builder, network=network)
    if image is None or image is base:
        raise UserError(
            f"{dockerfile.path}: FROM {dockerfile.base}: there is nothing to make; COPY something or RUN something"
        )
    return image


def image_below(images: Images, dockerfile: Dockerfile, *, network: bool = False) -> Image | None:
    """Return what a sandbox starts from in which only the last copies are still to be made; None: the machine's system.

    Commands are run if they were not yet. A base that is not known is the machine's own system if nothing is run.
    Raises `UserError` as `from_dockerfile`.
    """
    if not dockerfile.built.steps:
        return None if dockerfile.base in (HOST, SCRATCH) else images.find(dockerfile.base)
    return from_dockerfile(images, dockerfile.built, network=network)


def _base(images: Images, dockerfile: Dockerfile) -> Image | None:
    runs = any(isinstance(step, Run) for step in dockerfile.steps)
    if dockerfile.base == SCRATCH and not runs:
        return None
    if dockerfile.base in (HOST, SCRATCH):
        raise UserError(
            f"{dockerfile.path}: FROM {dockerfile.base} cannot be changed by RUN; name an image, "
            "such as one made by 'palmette sandbox images build debootstrap:bookworm --name debian:bookworm'"
        )
    image = images.find(dockerfile.base)
    if image is None:
        raise UserError(
            f"{dockerfile.path}: FROM {dockerfile.base}: no image of that name here; make one: "
            f"palmette sandbox images build SOURCE --name {dockerfile.base} (a directory, a tar, debootstrap:SUITE)"
        )
    return image


def _groups(steps: Sequence[Run | Copy]) -> list[list[Run | Copy]]:
    """Cut steps into groups that are kept as one image each: what is copied goes with the command that follows."""
    groups: list[list[Run | Copy]] = []
    for number, step in enumerate(steps):
        if number == 0 or isinstance(steps[number - 1], Run):
            groups.append([])
        groups[-1].append(step)
    return groups


def _config(dockerfile: Dockerfile, image: Image | None, group: list[Run | Copy], *, last: bool) -> Config:
    step = group[-1]
    env, workdir = (dockerfile.env, dockerfile.workdir) if last else (step.env, step.workdir)
    said = "RUN " + " ".join(step.argv[-1].split()) if isinstance(step, Run) else f"COPY {step.source.name}"
    source = f"{dockerfile.base}: {said[:60]}{'...' * (len(said) > 60)}"
    return Config(source=source, env={**(image.env if image else {}), **env}, workdir=workdir)


def _step(
    images: Images,
    dockerfile: Dockerfile,
    image: Image | None,
    group: list[Run | Copy],
    config: Config,
    builder: Builder,
    *,
    network: bool,
) -> Image:
    def fill(root: Path) -> Config:
        for step in group:
            if isinstance(step, Copy):
                _copy(dockerfile, root, step)
            else:
                env = {**(image.env if image else {}), **step.arguments, **step.env}
                _run(dockerfile, root, step, env, builder, network=network)
        weak = f" (run without a filter of system calls: {builder.weakness})" if builder.weakness else ""
        return replace(config, source=config.source + weak)

    return images.add(_key(image, group, config), image, fill)


def _key(image: Image | None, group: list[Run | Copy], config: Config) -> str:
    parts = [image.id if image else "", config.workdir, json.dumps(dict(config.env), sort_keys=True)]
    for step in group:
        if isinstance(step, Copy):
            parts += ["copy", step.target, _tree(step.source)]
        else:
            variables = {**step.arguments, **step.env}
            parts += ["run", *step.argv, step.workdir, json.dumps(variables, sort_keys=True)]
    return _digest(*parts)


def _run(
    dockerfile: Dockerfile, root: Path, step: Run, env: dict[str, str], builder: Builder, *, network: bool
) -> None:
    proxies = {name: os.environ[name] for name in _PROXIES if network and name in os.environ}
    env = {"PATH": PATH, "HOME": "/root", **proxies, **env}
    ended = builder.run(root, step.workdir, step.argv, env, network=network)
    said = re.sub(r"\s+", " ", ended.output.decode(errors="replace")).strip()[-300:]
    if ended.limit:
        raise UserError(f"{dockerfile.path}:{step.line}: RUN passed its limit of {ended.limit} (it said: {said})")
    if ended.exit_code:
        hint = "" if network else "; it had no network: 'palmette sandbox images build --network' gives it one"
        raise UserError(
            f"{dockerfile.path}:{step.line}: RUN failed with exit {ended.exit_code}{hint} (it said: {said})"
        )


def _copy(dockerfile: Dockerfile, root: Path, step: Copy) -> None:
    owner = (0, 0) if os.geteuid() == 0 else None
    files = Files(os.open(root, os.O_PATH | os.O_DIRECTORY), workdir="/", owner=owner, limit_bytes=1 << 40)
    try:
        if step.source.is_dir():
            files.unpack(packed(step.source), step.target)
        else:
            files.write(step.target, step.source.read_bytes(), step.source.stat().st_mode & 0o777)
    except PathRefused as error:
        raise UserError(f"{dockerfile.path}:{step.line}: COPY {step.target}: {error}") from None
    finally:
        files.close()


def packed(path: Path) -> bytes:
    """Return a directory (or one file) of a context as a deterministic tar: sorted, without times and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for each in [path] if path.is_file() else sorted(path.rglob("*")):
            name = path.name if path.is_file() else str(each.relative_to(path))
            tar.add(each, arcname=name, recursive=False, filter=_anonymous)
    return buffer.getvalue()


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _tree(path: Path) -> str:
    """Return a digest of a file or directory: names, kinds, modes, owners and contents."""
    digest = hashlib.sha256()
    for each in [path] if not path.is_dir() else [path, *sorted(path.rglob("*"))]:
        info = each.lstat()
        digest.update(f"{each.relative_to(path)}\0{info.st_mode}\0{info.st_uid}\0{info.st_gid}\0".encode())
        if each.is_symlink():
            digest.update(os.fsencode(os.readlink(each)))
        elif each.is_file():
            with each.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _has_shell(root: Path) -> bool:
    return any((root / name).is_symlink() or (root / name).is_file() for name in ("bin/sh", "usr/bin/sh"))


def _own_suite() -> str:
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(encoding="utf-8"), re.M)
    return found[1] if found else "stable"


def _own_mirror() -> list[str]:
    """Return the first mirror in apt's configuration, if there is one; debootstrap knows a default."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            if found := re.search(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(\S+/debian/?)(?:\s|$)", text, re.M):
                return [found[1]]
    return []
