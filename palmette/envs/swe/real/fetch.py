"""Gets the files of a project: a directory or git checkout, an archive on disk, or a release of a package by its name.

Packages of npm's are called npm:NAME[@VERSION]; npm itself gets those. A release of PyPI's is found and downloaded with
pip's own configuration (index, certificates, keys), but not by ``pip download``: that runs the package's build script
to learn its dependencies, here, and we do not run strangers' code outside of a sandbox.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from palmette.envs import npm
from palmette.errors import UserError

NPM = "npm:"
_MOST_BYTES, _MOST_FILES = 200 << 20, 20_000
_FETCH_S = 300.0

# Pip's finder and downloader, without its resolver, which would build. They are no public interface of pip.
_FIND = """
import sys
from pip._internal.commands import create_command
from pip._internal.network.download import Downloader
from pip._vendor.packaging.requirements import Requirement
command = create_command("download")
options, _ = command.parse_args(["-q", "--no-binary", ":all:", "--no-deps", "nothing"])
wanted, place = Requirement(sys.argv[1]), sys.argv[2]
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options=options, session=session, ignore_requires_python=True)
    if sys.argv[3:] == ["list"]:
        found = finder.find_best_candidate(wanted.name, wanted.specifier).applicable_candidates
        print(*dict.fromkeys(str(each.version) for each in found), sep="\\n")
    else:
        best = finder.find_best_candidate(wanted.name, wanted.specifier).best_candidate
        if best is None:
            sys.exit("there is no such sdist")
        try: downloader = Downloader(session, "off")
        except TypeError: downloader = Downloader(session, "off", 0)
        try: path = downloader(best.link, place)[0]
        except TypeError: path = downloader.download(best.link, place)[0]
        print(path)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A project's files, unpacked at `path`, and where they come from."""

    path: Path
    provenance: str


def fetch(what: str, into: Path) -> Source:
    """Unpack ``NAME[==VERSION]``, ``npm:NAME[@VERSION]``, an archive or a directory into the directory `into`.

    Raises `UserError` when there is no such thing, or when it is too large or leads out of its place.
    """
    path = Path(what)
    if path.is_dir():
        _copy(path, into)
        return Source(path=into, provenance=f"directory {path.name}")
    if path.is_file():
        _unpack(path, into)
        return Source(path=into, provenance=f"{_kind(path)} {path.name}")
    from_npm = what.startswith(NPM)
    if not from_npm and not re.fullmatch(r"[A-Za-z0-9][\w.-]*(\s*[=<>!~]=?.*)?", what):
        raise UserError(
            f"{what}: no such file or directory, and no name of a package such as attrs==23.1.0 or npm:ms@2.1.3"
        )
    into.parent.mkdir(parents=True, exist_ok=True)
    downloads = into.parent / f".{into.name}.download"
    downloads.mkdir(exist_ok=True)
    try:
        archive = _from_npm(what, downloads) if from_npm else Path(_pip(what, str(downloads)))
        _unpack(archive, into)
        return Source(path=into, provenance=f"{_kind(archive)} {archive.name}")
    finally:
        shutil.rmtree(downloads, ignore_errors=True)


def releases(name: str) -> list[str]:
    """Return the versions of a package that have an sdist, or are npm's, oldest first. Raises `UserError`."""
    return npm.releases(name.removeprefix(NPM)) if name.startswith(NPM) else _pip(name, "", "list").split()


def release(name: str, version: str) -> str:
    """Return what `fetch` calls a version of a package."""
    return f"{name}@{version}" if name.startswith(NPM) else f"{name}=={version}"


def _kind(archive: Path) -> str:
    return "npm package" if archive.suffix == ".tgz" else "sdist"


def _from_npm(what: str, into: Path) -> Path:
    found = re.fullmatch(r"(@?[^@]+)(?:@([\w.^~+-]+))?", what.removeprefix(NPM))
    if not found or not npm.named(found[1]):
        raise UserError(f"{what}: no name of a package of npm's, such as npm:ms@2.1.3 or npm:@scope/name")
    return npm.download(found[1], found[2] or "", into)


def _pip(*arguments: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _FIND, *arguments], capture_output=True, text=True, timeout=_FETCH_S
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{arguments[0]}: the index did not answer within {_FETCH_S:g} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise UserError(f"{arguments[0]}: cannot be fetched: {said[-1][:300]}")
    return done.stdout.strip()


def _copy(source: Path, into: Path) -> None:
    """Copy what git tracks, or everything where it is no checkout."""
    listed = subprocess.run(["git", "-C", str(source), "ls-files", "-z"], capture_output=True, check=False)
    names = [name for name in listed.stdout.decode(errors="surrogateescape").split("\0") if name]
    if listed.returncode or not names:
        shutil.copytree(source, into, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__", ".venv"))
        return
    for name in names:
        if (source / name).is_file() and not (source / name).is_symlink():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, into / name)


def _unpack(archive: Path, into: Path) -> None:
    """Unpack an archive whose files lie below one directory; links and devices are left out."""
    try:
        files = _zipped(archive) if archive.suffix == ".zip" else _tarred(archive)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise UserError(f"{archive}: not an archive that can be unpacked: {error}") from None
    tops = {name.split("/")[0] for name in files}
    if len(tops) != 1:
        raise UserError(f"{archive}: such an archive has one directory at its top, this has {len(tops)}")
    for name, data in files.items():
        below = name.split("/")[1:]
        if not below or ".." in below or name.startswith("/"):
            continue
        path = into.joinpath(*below)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _tarred(archive: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            total += member.size
            _bounded(archive, total, len(files))
            if member.isreg() and (content := tar.extractfile(member)):
                files[member.name.removeprefix("./")] = content.read()
    return files


def _zipped(archive: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    with zipfile.ZipFile(archive) as pack:
        for info in pack.infolist():
            total += info.file_size
            _bounded(archive, total, len(files))
            if not info.is_dir():
                files[info.filename] = pack.read(info)
    return files


def _bounded(archive: Path, total: int, count: int) -> None:
    if total > _MOST_BYTES or count > _MOST_FILES:
        raise UserError(f"{archive}: larger than {_MOST_BYTES >> 20} MiB or {_MOST_FILES} files; not unpacked")
