"""Starts bubblewrap as a user of its own, or joins a sandbox of it: ``python -I -S enter_box.py`` with

    start UID CGROUPS PROGRAM ARGV...       become UID (unless -1) and be PROGRAM; an argument "@PATH" becomes a place
                                            where the directory PATH can be reached whatever its parents allow
    run PID UID CGROUPS DIRECTORY ARGV...   run a command in the sandbox whose first process is PID, as its user UID
    sockets PID CONTROL                     for every byte that comes through CONTROL, send a TCP socket of that family
                                            that was made in the sandbox's network; what went wrong, instead

CGROUPS are files to write a "0" into, ":" between them. Only the standard library is used: the interpreter runs without
site packages. The exit code is the command's own; if a signal ended it, that signal ends this program.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import sys
import warnings

assert warnings  # os.execvpe imports it, which is too late inside
GATEWAY = ("127.77.0.1", 8000)
_NAMESPACES = (("cgroup", 0x2000000), ("ipc", 0x8000000), ("uts", 0x4000000), ("net", 0x40000000))
_NAMESPACES += (("pid", 0x20000000), ("mnt", 0x20000), ("user", 0x10000000))
_NEWNS, _NEWUSER, _GET_USERNS = 0x20000, 0x10000000, 0xB701
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_PLACES = "/mnt"  # in a mount namespace of our own
_CAPBSET_DROP, _NO_NEW_PRIVS, _PDEATHSIG = 24, 38, 1
_libc = ctypes.CDLL(None, use_errno=True)


def start(uid: int, cgroups: str, argv: list[str]) -> None:
    """Become bubblewrap; returns never."""
    _limit(cgroups)
    if uid < 0:
        argv = [each.removeprefix("@") for each in argv]
    else:
        _try("a mount namespace", _libc.unshare(_NEWNS))
        _mount(None, "/", None, _REC | _PRIVATE)
        places = {each: os.open(each[1:], os.O_PATH) for each in argv if each.startswith("@/")}
        _mount("places", _PLACES, "tmpfs", 0, "mode=755,size=1m")
        for number, (each, fd) in enumerate(places.items()):
            place = f"{_PLACES}/{number}"
            os.mkdir(place) if os.path.isdir(each[1:]) else os.close(os.open(place, os.O_CREAT))
            _mount(f"/proc/self/fd/{fd}", place, None, _BIND | _REC)
        argv = [f"{_PLACES}/{list(places).index(each)}" if each in places else each for each in argv]
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.execv(argv[0], argv)


def run(pid: int, uid: int, cgroups: str, directory: str, argv: list[str]) -> int:
    """Run `argv` in `directory` of the sandbox and return its exit code."""
    _limit(cgroups)
    adjust = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    _join(pid)
    os.write(adjust, b"500")  # out of memory, commands die and the sandbox's first process lives
    child = os.fork()  # only a child is in the process namespace
    if child:
        os.write(adjust, b"0")
    os.close(adjust)
    if child == 0:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        _become(directory, argv)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        signal.pause()
    return code


def sockets(pid: int, control: int) -> int:
    """Make sockets in the sandbox's network for as long as somebody asks."""
    with socket.socket(fileno=control) as end:
        try:
            _join(pid)
            while asked := end.recv(1):
                with socket.socket(asked[0], socket.SOCK_STREAM) as made:
                    socket.send_fds(end, [b"1"], [made.fileno()])
        except OSError as error:
            end.send((error.strerror or str(error)).encode())
    return 0


def _limit(cgroups: str) -> None:
    for path in filter(None, cgroups.split(":")):
        with open(path, "w") as file:
            file.write("0")


def _join(pid: int) -> None:
    fds = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), flag) for name, flag in _NAMESPACES]
    if (
        os.geteuid()
    ):  # what owns the others gives the right to join them; then comes the one that bubblewrap nests in it
        fds.insert(0, (fcntl.ioctl(fds[-2][0], _GET_USERNS), _NEWUSER))
    else:
        os.setgroups([])
    for fd, flag in fds:
        if _libc.setns(fd, flag) and (flag != _NEWUSER or ctypes.get_errno() != errno.EINVAL):  # EINVAL: there already
            number = ctypes.get_errno()
            raise OSError(number, f"joining the sandbox: {os.strerror(number)}")
        os.close(fd)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind)]
    _try(f"mounting {target}", _libc.mount(*words, ctypes.c_ulong(flags), options.encode()))


def _try(what: str, code: int) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _become(directory: str, argv: list[str]) -> None:
    for capability in range(64):
        _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    head, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _libc.capset(head, none)
    _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python ignores or handles them
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    what = directory
    try:
        os.chdir(directory)
        what = argv[0]
        os.execvpe(argv[0], argv, dict(os.environ))
    except OSError as error:
        os.write(2, f"{what}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) and what == argv[0] else 126)


def main(mode: str, *words: str) -> int:
    """Do as the first word says."""
    match mode:
        case "start":
            start(int(words[0]), words[1], list(words[2:]))
        case "run":
            return run(int(words[0]), int(words[1]), words[2], words[3], list(words[4:]))
        case "sockets":
            return sockets(int(words[0]), int(words[1]))
    return 2


if __name__ == "__main__":
    try:
        status = main(*sys.argv[1:])
    except OSError as error:
        os.write(2, f"{error.strerror or error}\n".encode())
        status = 126
    os._exit(status)
