"""Programs that run inside a sandbox and try what must fail; each prints "all stopped" or says what was not.

Templates have host facts put in with `str.format`; the others are used as they are.
"""

from __future__ import annotations

# what would do harm where there are no walls at all is not even tried
PRELUDE = """
import atexit, ctypes, errno, os, platform, signal, socket, sys
c = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
DENIED = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOSYS)
escaped = []
if int(next(l for l in open("/proc/self/status") if l.startswith("CapEff")).split()[1], 16) & 1 << 21 and (
    open("/proc/self/uid_map").read().split() == ["0", "0", "4294967295"]
):
    raise SystemExit("this has the rights of the machine's root: nothing is tried")
def call(what, value, codes=(errno.EPERM,)):
    code = ctypes.get_errno()
    if value != -1 or code not in codes:
        escaped.append((what, value, errno.errorcode.get(code, code)))
def syscall(what, x86_number, other_number, *arguments, codes=(errno.EPERM,)):
    call(what, c.syscall(x86_number if x86 else other_number, *arguments), codes)
def tried(what, action, codes=DENIED):
    try:
        escaped.append((what, action()))
    except OSError as error:
        if error.errno not in codes:
            escaped.append((what, error))
atexit.register(lambda: print("all stopped" if not escaped else f"escaped: {escaped}"))
"""

FILES = """
secret = {secret!r}
for path in (secret, "/etc/shadow", "/root/.ssh", "/home", "/var/lib", "/run", "/boot", "/proc/1/root" + secret,
             "/proc/self/root" + secret, "/proc/1/cwd/etc/shadow", "/dev/vda", "/dev/sda", "/dev/mem", "/dev/kmsg"):
    tried(path, lambda: open(path, "rb").read(9) if not os.path.isdir(path) else os.listdir(path))
for path in (secret, "/usr/bin/planted", "/usr/lib/planted", "/bin/planted", "/lib/planted", "/proc/planted",
             "/etc/ld.so.cache", "/usr/bin/env"):
    tried("write " + path, lambda: open(path, "ab").write(b"x"))
tried("link", lambda: os.link("/usr/bin/env", "/tmp/env"), (*DENIED, errno.EXDEV))
tried("chmod", lambda: os.chmod("/usr/bin/env", 0o4777))
tried("rename", lambda: os.rename("/usr/bin", "/usr/bon"), (*DENIED, errno.EXDEV))
for pid in os.listdir("/proc"):
    if pid.isdigit() and os.path.exists("/proc/" + pid + "/root" + secret):
        escaped.append(pid)
if any(word in open("/proc/self/mountinfo").read() for word in (os.path.dirname(secret), "/root/", "/home/")):
    escaped.append("mountinfo")
"""

PLANTED = """
for path in ("/etc/passwd", "/etc/hosts", "/etc/nsswitch.conf", "/planted", "/etc/planted", "/var/planted"):
    tried("write " + path, lambda: open(path, "ab").write(b"x"))
    tried("truncate " + path, lambda: os.truncate(path, 0))
    tried("remove " + path, lambda: os.unlink(path))
tried("mkdir", lambda: os.mkdir("/home"))
tried("rename", lambda: os.rename("/etc/hosts", "/tmp/hosts"), (*DENIED, errno.EXDEV))
tried("replace", lambda: os.rename("/tmp", "/var/tmp/tmp"), (*DENIED, errno.EXDEV))
tried("link", lambda: os.link("/etc/passwd", "/tmp/passwd"), (*DENIED, errno.EXDEV))
tried("symlink", lambda: os.symlink("/tmp", "/etc/link"))
os.makedirs("/app/a/b"), os.mkdir("/tmp/c")
open("/app/a/b/f", "w").write("moved")
os.rename("/app/a/b/f", "/tmp/c/f")
os.link("/tmp/c/f", "/dev/shm/f") if os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev else None
if open("/tmp/c/f").read() != "moved":
    escaped.append("its own files are in its way")
"""

PROC = """
for path in ("sysrq-trigger", "sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/vm/drop_caches",
             "sys/kernel/hostname", "sys/net/ipv4/ip_forward", "sys/user/max_user_namespaces", "timer_list",
             "sys/kernel/ns_last_pid", "self/uid_map", "self/gid_map", "self/setgroups"):
    tried(path, lambda: os.write(os.open("/proc/" + path, os.O_WRONLY), b"1"))
for path in ("kcore", "kmsg", "vmallocinfo", "slabinfo", "1/stack"):
    tried(path, lambda: os.read(os.open("/proc/" + path, os.O_RDONLY | os.O_NONBLOCK), 1))
tried("/sys", lambda: os.listdir("/sys"))
symbols = open("/proc/kallsyms").read(4096).split() if os.access("/proc/kallsyms", os.R_OK) else ["0"]
if symbols and int(symbols[0], 16):
    escaped.append("kernel addresses")
if any(line for line in open("/proc/self/cgroup") if "palmette" in line):
    escaped.append("the path of its cgroup")
"""

FIRST = """
for path in ("mem", "environ", "maps", "fd/3", "ns/net", "stack", "root/etc", "cwd/etc"):
    tried(path, lambda: os.read(os.open("/proc/1/" + path, os.O_RDONLY | os.O_NONBLOCK), 1))
for path in ("mem", "oom_score_adj", "clear_refs", "comm"):
    tried("write " + path, lambda: os.write(os.open("/proc/1/" + path, os.O_WRONLY), b"1"))
"""

SIGNALS = """
for pid in {pids}:
    if pid > 64:
        tried(pid, lambda: os.kill(pid, signal.SIGKILL), (errno.ESRCH, errno.EPERM))
        tried(pid, lambda: os.pidfd_open(pid), (errno.ESRCH,))
        tried(pid, lambda: os.sched_setaffinity(pid, [0]), (errno.ESRCH,))
if len([pid for pid in os.listdir("/proc") if pid.isdigit()]) > 4:
    escaped.append(os.listdir("/proc"))
"""

NAMESPACES = """
os.makedirs("/tmp/m", exist_ok=True)
call("mount tmpfs", c.mount(b"x", b"/tmp/m", b"tmpfs", 0, None))
call("bind", c.mount(b"/usr", b"/tmp/m", None, 4096, None))
call("remount", c.mount(b"none", b"/usr", None, 4096 | 32, None))
call("proc", c.mount(b"proc", b"/tmp/m", b"proc", 0, None))
call("umount", c.umount2(b"/usr", 2), (errno.EPERM, errno.EINVAL))
call("chroot", c.chroot(b"/tmp/m"))
syscall("pivot_root", 155, 41, b"/tmp/m", b"/tmp/m")
syscall("open_tree", 428, 428, -100, b"/usr", 1)
syscall("fsopen", 430, 430, b"tmpfs", 0)
syscall("mount_setattr", 442, 442, -100, b"/usr", 0, bytes(32), 32)
for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x20000000, 0x40000000, 0x80):
    call(f"unshare {flag:x}", c.unshare(flag))
for name in ("mnt", "net", "pid", "user", "cgroup"):
    tried(name, lambda: c.setns(os.open(f"/proc/1/ns/{name}", 0), 0) == -1 and os.open("/none", 0))
    call(name, c.setns(os.open(f"/proc/self/ns/{name}", 0), 0), (errno.EPERM, errno.EINVAL))
for device in (0x0101, 0x0103, 0xfe00, 0x0800):
    tried("mknod", lambda: os.mknod(f"/tmp/dev{device}", 0o60666, device))
    tried("mknod", lambda: os.mknod(f"/tmp/dev{device}", 0o20666, device))
"""

USER_NAMESPACES = """
call("unshare", c.unshare(0x10000000))
call("unshare with mounts", c.unshare(0x10020000))
syscall("clone", 56, 220, 0x10000000 | 17, 0, 0, 0, 0)
syscall("clone3", 435, 435, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88, codes=(errno.ENOSYS,))
tried("setns", lambda: c.setns(os.open("/proc/self/ns/user", 0), 0x10000000) == -1 and os.open("/none", 0))
"""

SETUID = """
import shutil, subprocess
REFUSED = (errno.EPERM, errno.EINVAL)  # the latter where 0 is nobody's id (rootless)
for name in ("setuid", "setgid", "seteuid", "setegid"):
    call(name, getattr(c, name)(0), REFUSED)
call("setresuid", c.setresuid(0, 0, 0), REFUSED)
call("setgroups", c.setgroups(1, (ctypes.c_int * 1)(0)))
syscall("capset", 126, 91, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xffffffff] * 6))
tried("chown", lambda: os.chown("/tmp", 0, 0), REFUSED)
shutil.copy("/usr/bin/id", "/tmp/id")
os.chmod("/tmp/id", 0o6755)
for command in (["/tmp/id", "-u"], ["su", "-c", "id -u"], ["sudo", "-n", "id", "-u"]):
    with open("/tmp/who", "w+b") as told:
        try:
            run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told, start_new_session=True)
        except OSError:
            continue
        try:
            run.wait(2)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
        told.seek(0)
        if told.read().strip() == b"0":
            escaped.append(command)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
if status["NoNewPrivs"].strip() != "1" or int(status["CapBnd"], 16):
    escaped.append(status["CapBnd"])
c.prctl(38, 0, 0, 0, 0)
if c.prctl(39, 0, 0, 0, 0) != 1:
    escaped.append("no_new_privs was taken back")
"""

CALLS = """
child = os.fork()
if not child:
    signal.pause()
syscall("ptrace attach", 101, 117, 16, child, 0, 0)
syscall("ptrace pid 1", 101, 117, 16, 1, 0, 0)
syscall("process_vm_readv", 310, 270, 1, 0, 0, 0, 0, 0)
syscall("process_vm_writev", 311, 271, 1, 0, 0, 0, 0, 0)
os.kill(child, 9), os.wait()
syscall("add_key", 248, 217, b"user", b"x", b"y", 1, -4)
syscall("request_key", 249, 218, b"user", b"x", None, 0)
syscall("keyctl", 250, 219, 0, -3, 0, 0, 0)
syscall("bpf", 321, 280, 5, bytes(128), 128)
syscall("perf_event_open", 298, 241, bytes(128), 0, -1, -1, 0)
for number in (425, 426, 427):
    syscall(f"io_uring {number}", number, number, 8, 0, 0, 0, 0, 0, codes=(errno.ENOSYS,))
syscall("userfaultfd", 323, 282, 0, codes=(errno.ENOSYS, errno.EPERM))
syscall("open_by_handle_at", 304, 265, -100, 0, 0)
syscall("pidfd_getfd", 438, 438, 0, 0, 0)
syscall("init_module", 175, 105, 0, 0, b"")
syscall("finit_module", 313, 273, 0, b"", 0)
syscall("delete_module", 176, 106, b"x", 0)
syscall("kexec_load", 246, 104, 0, 0, 0, 0)
"""

MACHINE = """
call("sethostname", c.sethostname(b"x", 1))
call("reboot", c.reboot(0))
call("swapon", c.swapon(b"/tmp/x", 0), (errno.EPERM,))
call("clock_settime", c.clock_settime(0, (ctypes.c_long * 2)(0, 0)), (errno.EPERM,))
call("acct", c.acct(b"/tmp/x"), (errno.EPERM, errno.ENOSYS))
call("iopl", c.iopl(3) if x86 else -1, (errno.EPERM, errno.ENOSYS, 0))
syscall("syslog", 103, 116, 3, ctypes.create_string_buffer(99), 99)
tried("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
tried("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(9)))
import resource
for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
    soft, hard = resource.getrlimit(what)
    if hard == resource.RLIM_INFINITY:
        continue
    try:
        resource.setrlimit(what, (hard + 1, hard + 1))
        escaped.append(what)
    except (ValueError, OSError):
        pass
"""

RAW = """
for family, kind in ((socket.AF_INET, socket.SOCK_RAW), (socket.AF_INET6, socket.SOCK_RAW), (17, socket.SOCK_RAW),
                     (17, socket.SOCK_DGRAM), (40, socket.SOCK_STREAM), (38, socket.SOCK_SEQPACKET), (29, 3), (31, 3)):
    tried((family, kind), lambda: socket.socket(family, kind, 1), (errno.EPERM, errno.EAFNOSUPPORT))
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
link.bind((0, 0))
link.send((32).to_bytes(4, "little") + (17).to_bytes(2, "little") + (5).to_bytes(2, "little") + bytes(8)
          + bytes(4) + (1).to_bytes(4, "little") + bytes(8))  # RTM_DELLINK of loopback
if int.from_bytes(link.recv(99)[16:20], "little", signed=True) != -errno.EPERM:
    escaped.append("loopback was taken down")
"""

SOCKETS = """
tried("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0{name}"), (errno.ECONNREFUSED,))
for host in ("127.0.0.1", "127.0.0.2", "0.0.0.0"):
    tried(host, lambda: socket.create_connection((host, {port}), 3), (errno.ECONNREFUSED,))
for host in ("10.0.0.1", "192.168.0.1", "172.17.0.1", "169.254.169.254", "8.8.8.8"):
    tried(host, lambda: socket.create_connection((host, 80), 3), (errno.ENETUNREACH,))
for path in ("/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket"):
    tried(path, lambda: socket.socket(socket.AF_UNIX).connect(path), DENIED)
if any(line for line in open("/proc/net/unix") if "@" in line):
    escaped.append("abstract sockets of others")
"""

INHERITED = """
found = sorted(os.listdir("/proc/self/fd"), key=int)
if found != ["0", "1", "2", "3"]:  # the last is the listing's own
    escaped.append([os.readlink(f"/proc/self/fd/{fd}") for fd in found[:-1]])
if set(os.environ) - {"PATH", "HOME", "USER", "LANG", "LC_CTYPE", "PWD"}:
    escaped.append(sorted(os.environ))
"""

RACE = """
import os
os.makedirs("real", exist_ok=True)
open("real/f", "w").write("inside")
while True:
    for make in (lambda: os.symlink({outside!r}, "d"), lambda: os.symlink("/", "d"), lambda: os.rename("real", "d")):
        try:
            make()
        except OSError:
            pass
        for source in ({outside!r} + "/f", "/etc/shadow", "real/f"):
            try:
                os.link(source, "hard", follow_symlinks=False)
                os.unlink("hard")
            except OSError:
                pass
        try:
            os.rename("d", "real") if not os.path.islink("d") else os.unlink("d")
        except OSError:
            pass
"""
