"""Runs commands as root of an image while it is built: ``python -I -S enter_image.py SOCKET`` (see builder.py).

The first packet is a filter of system calls, which all commands inherit; it is answered. Then each packet is a command,
with a pipe for its output; the answer is its exit code, or 250 if the walls could not be put up. A command sees its
root and nothing else of the machine: own mount, process, IPC, name and (unless asked) network namespaces, the few
capabilities that packages need to install themselves, no new privileges, ``/proc/sys`` read only. Only the standard
library is used here, since the interpreter runs without site packages.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

NOT_ENTERED, READY = 250, b"ready"
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_PDEATHSIG, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS, _DETACH = 1, 22, 24, 38, 2
_KEPT = (0, 1, 3, 4, 5, 6, 7, 10, 31)  # chown, dac_override, fowner, fsetid, kill, setgid, setuid, net_bind, setfcap
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_SEALED = ("sys", "sysrq-trigger", "irq", "bus", "fs", "kcore", "keys", "timer_list", "acpi", "scsi")
_libc = ctypes.CDLL(None, use_errno=True)


def main(number: int) -> int:
    """Serve requests from the socket `number` until its other end is closed."""
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    end = socket.socket(fileno=number)
    try:
        _prepare(end.recv(1 << 16))
    except OSError as error:
        end.send((error.strerror or str(error)).encode())
        return NOT_ENTERED
    end.send(READY)
    while request := socket.recv_fds(end, 1 << 20, 1):
        if not request[0]:
            return 0
        output = request[1][0]
        child = os.fork()
        if child == 0:
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(3, 1 << 10)
            os._exit(_told(json.loads(request[0])))
        os.close(output)
        end.send(str(_code(child)).encode())
    return 0


def _prepare(program: bytes) -> None:
    user, group = os.geteuid(), os.getegid()
    if user:  # root inside is this user outside
        _try("a user namespace", _libc.unshare(_NEWUSER))
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if len(program) < 8:
        return
    words = ctypes.create_string_buffer(program, len(program))
    record = struct.pack("HP", len(program) // 8, ctypes.addressof(words))  # struct sock_fprog
    _try("the filter of system calls", _libc.prctl(_SECCOMP, 2, ctypes.c_char_p(record), 0, 0))


def _told(request: dict[str, Any]) -> int:
    try:
        return _run(request)
    except OSError as error:
        os.write(2, f"{error.strerror or error}\n".encode())
        return NOT_ENTERED


def _run(request: dict[str, Any]) -> int:
    """Run the command in the image and return its exit code as a shell would."""
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    network, argv, env = request["network"], request["argv"], request["env"]
    resolver = b""
    if network:
        with suppress(OSError), open("/etc/resolv.conf", "rb") as file:
            resolver = file.read()
    for path in request["cgroups"]:
        with open(path, "w") as file:
            file.write("0")
    _try("new namespaces", _libc.unshare(_NEWNS | _NEWUTS | _NEWIPC | _NEWPID | (0 if network else _NEWNET)))
    child = os.fork()
    if child:
        return _code(child)
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _enter(request["root"], resolver)
    _drop()
    os.makedirs(request["workdir"], exist_ok=True)
    os.chdir(request["workdir"])
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        return 127 if isinstance(error, FileNotFoundError) else 126


def _code(child: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return 128 - code if code < 0 else code


def _enter(root: str, resolver: bytes) -> None:
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount(root, root, None, _BIND | _REC)
    os.chdir(root)
    for name in ("proc", "dev"):
        if os.path.islink(name):  # it would lead out
            raise OSError(f"/{name} of the image is a link")
        os.makedirs(name, exist_ok=True)
    _mount("dev", "dev", "tmpfs", _NOSUID | _NOEXEC, "mode=755,size=64m")
    for name in ("null", "zero", "full", "random", "urandom"):
        os.close(os.open(f"dev/{name}", os.O_CREAT, 0o666))
        _mount(f"/dev/{name}", f"dev/{name}", None, _BIND)
    _mount("proc", "proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    machine = os.uname().machine
    _try("pivot_root", _libc.syscall(_PIVOT_ROOT.get(machine, 41), b".", b"."))
    _try("leaving the machine's files", _libc.umount2(b".", _DETACH))
    os.chdir("/")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/shm")
    os.chmod("/dev/shm", 0o1777)
    for name in filter(lambda name: os.path.exists(f"/proc/{name}"), _SEALED):
        _mount(f"/proc/{name}", f"/proc/{name}", None, _BIND | _REC)
        _mount(None, f"/proc/{name}", None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | _NOEXEC)
    _try("sethostname", _libc.sethostname(b"build", 5))
    if resolver:
        with open("/dev/resolv.conf", "wb") as file:
            file.write(resolver)
        os.makedirs("/etc", exist_ok=True)
        if not os.path.exists("/etc/resolv.conf"):
            with suppress(FileNotFoundError):
                os.unlink("/etc/resolv.conf")  # a link to nowhere
            os.close(os.open("/etc/resolv.conf", os.O_CREAT | os.O_EXCL, 0o644))
        _mount("/dev/resolv.conf", "/etc/resolv.conf", None, _BIND)


def _drop() -> None:
    for capability in range(64):
        if capability not in _KEPT:
            _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    words = [sum(1 << (c - 32 * half) for c in _KEPT if c // 32 == half) for half in (0, 1)]
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    data = (ctypes.c_uint32 * 6)(words[0], words[0], 0, words[1], words[1], 0)  # effective, permitted, inheritable
    _try("dropping capabilities", _libc.capset(head, data))
    _try("no_new_privs", _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    os.umask(0o022)
    os.setsid()


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind)]
    _try(f"mounting {target}", _libc.mount(*words, ctypes.c_ulong(flags), options.encode()))


def _try(what: str, code: int) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1])))
