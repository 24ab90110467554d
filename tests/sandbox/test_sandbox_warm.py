"""Scripts that a waiting shell takes end like those of a fresh one, whatever is done to the waiting one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palmette.sandbox.api import Result, Sandbox, Spec, StartFailed, Status
from palmette.sandbox.hosts import open_host

_LIBRARY = "while read -r line; do case $line in *memfd:palmette*) echo warm; break;; esac; done < /proc/$$/maps"
_OURS = "for p in /proc/[0-9]*; do read -r name < $p/comm; p=${p#/proc/}; [ $p = 1 ] || [ $name != palmette-box ] || "
_PIECES = (
    *('echo "$0 $# $- $PPID ${X-unset} $(umask)"', "exit 3", "false", "cat", 'read x; echo "got $x"', "kill -TERM $$"),
    *("trap 'echo bye' EXIT", "trap '' TERM", "set -e", "set -u; echo $nothing", "ulimit -a", "pwd; cd /tmp; pwd"),
    *("echo err >&2", "exec echo replaced", "exec >&2", "no-such-program", "/app", "if", "echo 'open", "echo )"),
    *("(exit 4)", "sleep 0 & wait $!", "echo a | tr a b", "env | sort", "f() { return 5; }; f", "eval 'exit 6'"),
    *("tr '\\0' '|' < /proc/$$/cmdline", "tr '\\0' '|' < /proc/$$/environ", "cat /proc/$$/comm /proc/$$/oom_score_adj"),
    *("ls /proc/$$/fd; readlink /proc/$$/exe /proc/$$/cwd", "cat /proc/$$/limits", "echo $LINENO", "printf 'x\\0y'"),
    *("grep -E '^(Sig|Shd|Cap|NoNew|Seccomp:|Uid|Gid|Groups|NSpid|Threads|CoreD)' /proc/$$/status | grep -v NSpid",),
    *("set -- $(cat /proc/$$/stat); [ $5 = $$ ] && [ $6 = $$ ] && echo leads $4 $7 ${19} ${38}", "# nothing", ""),
)
_CAN_WAIT = b"libc.so.6" in Path("/bin/sh").read_bytes()
_NAMES = st.sampled_from(["X", "PWD", "IFS", "PS4", "ENV", "HOME", "PATH", "LANG", "POSIXLY_CORRECT", "LD_BIND_NOW"])
_WORDS = st.text(st.characters(exclude_characters="\0|&", exclude_categories=["Cs"]), max_size=8)  # nothing at once
_VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@pytest.fixture
async def sandbox():
    if not _CAN_WAIT:
        pytest.skip("no shell can wait here: /bin/sh is not a dynamic program of the GNU C library")
    host = open_host("namespace")
    try:
        sandbox = await host.start(Spec())
    except StartFailed as error:
        pytest.skip(str(error))
    yield sandbox
    await host.close()


async def _warm(sandbox: Sandbox) -> None:
    for _ in range(200):
        if (await sandbox.exec(_LIBRARY)).stdout == b"warm\n":
            await asyncio.sleep(0.002)
            return
        await asyncio.sleep(0.01)
    raise AssertionError("no shell waits")


def _told(result: Result) -> tuple[object, ...]:
    return result.status, result.exit_code, result.stdout, result.stderr, result.truncated


async def test_warm_scripts_end_like_cold_ones(sandbox):
    await sandbox.exec("mkdir -p sub locked; chmod 0 locked")
    loop = asyncio.get_running_loop()

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(
        st.lists(st.sampled_from(_PIECES) | _WORDS, max_size=4),
        st.sampled_from([";", "\n", " && ", " || "]),
        st.dictionaries(_NAMES, _VALUES, max_size=2),
        st.sampled_from([None, "sub", "gone", "locked", "/", "/usr"]),
        st.binary(max_size=20),
    )
    def same(pieces, glue, env, cwd, stdin):
        script = glue.join(pieces)
        options = {"env": env, "cwd": cwd, "stdin": stdin, "timeout_s": 10}

        async def both() -> tuple[Result, Result]:
            warm = await sandbox.exec(script, **options)
            # a terminal of its own or bounds would make it cold too, but be seen by the script
            return warm, await sandbox.exec(["/usr/bin/env", "/bin/sh", "-c", script], **options)

        warm, cold = asyncio.run_coroutine_threadsafe(both(), loop).result()
        assert _told(warm) == _told(cold), (script, options)

    await _warm(sandbox)
    await asyncio.to_thread(same)
    await _warm(sandbox)


@pytest.mark.parametrize("length", [50_000, 131_000, 131_071, 131_072, 150_000])
async def test_long_scripts(sandbox, length):
    script = ("echo end #" + "x" * length)[:length]
    cold = await sandbox.exec(script)
    await _warm(sandbox)
    assert _told(await sandbox.exec(script)) == _told(cold)
    assert cold.exit_code == (0 if length < 131_072 else 126)


async def test_what_it_is_not_used_for(sandbox):
    await _warm(sandbox)
    for command in (["/bin/sh", "-xc", _LIBRARY], ["sh", "-c", _LIBRARY], ["/bin/sh", "-c", _LIBRARY, "name"]):
        assert (await sandbox.exec(command)).stdout == b"", command
    assert (await sandbox.exec(_LIBRARY, env={"LD_LIBRARY_PATH": "/app"})).stdout == b""
    assert (await sandbox.exec(["/bin/sh", "-c", _LIBRARY])).stdout == b"warm\n"


@pytest.mark.parametrize("number", ["STOP", "KILL"])
async def test_a_waiting_shell_that_is_lost_costs_nothing_but_time(sandbox, number):
    for turn in range(6):
        await _warm(sandbox)
        count = await sandbox.exec(f"n=0; {_OURS} {{ kill -{number} $p; n=$((n+1)); }}; done; echo $n")
        assert (await sandbox.exec("echo $((6*7)); echo x >> log", timeout_s=5)).stdout == b"42\n", count
        assert len(await sandbox.read("log")) == 2 * (turn + 1)
        assert int(count.stdout) >= 1, count


async def test_scripts_side_by_side(sandbox):
    await _warm(sandbox)
    results = await asyncio.gather(*(sandbox.exec(f"echo {n}; exit {n}") for n in range(60)))
    assert [(r.exit_code, r.stdout) for r in results] == [(n, b"%d\n" % n) for n in range(60)]


async def test_a_timeout_ends_a_warm_script_and_its_children_only(sandbox):
    await sandbox.exec("(setsid sh -c 'while :; do (echo >> beat); sleep 0.05; done' > /dev/null 2>&1 &)")
    await _warm(sandbox)
    result = await sandbox.exec("(setsid sleep 31 &); sleep 32 & sleep 33", timeout_s=0.3)
    assert (result.status, result.exit_code) == (Status.TIMEOUT, 137)
    left = await sandbox.exec("tr '\\0' ' ' < /proc/[0-9]*/cmdline; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert not any(word in left.stdout for word in (b"sleep 31", b"sleep 32", b"sleep 33")), left
    before = len(await sandbox.read("beat"))
    await asyncio.sleep(0.3)
    assert len(await sandbox.read("beat")) > before, "an earlier daemon was ended with it"


async def test_none_waits_where_nothing_runs(sandbox):
    count = f"n=0; {_OURS} n=$((n+1)); done; echo $n"
    assert (await sandbox.exec(count)).stdout == b"0\n"
    await _warm(sandbox)
    assert int((await sandbox.exec(count)).stdout) >= 1
    (copy,) = await sandbox.fork()
    for each in (sandbox, copy):
        assert (await each.exec(["/bin/sh", "-xc", count])).stdout == b"0\n"


async def test_nobody_looks_into_a_waiting_shell(sandbox):
    await _warm(sandbox)
    look = (
        "for f in mem fd environ maps; do head -c 1 /proc/$p/$f && echo open $f; ls /proc/$p/$f/ && echo open $f; done"
    )
    result = await sandbox.exec(f"{_OURS} {{ {look}; }}; done; echo end")
    assert result.stdout == b"end\n", result
    assert result.stderr.count(b"ermission denied") >= 4, result
