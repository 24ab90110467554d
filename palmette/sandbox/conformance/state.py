"""Copies of a sandbox and pauses: what is carried over, what is not, and who notices."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from palmette.sandbox.api import Busy, Host, Limits, Sandbox, SandboxLost, Spec, State
from palmette.sandbox.conformance.box import READONLY, box, python, raised


async def check_a_fork_has_the_files(host: Host) -> None:
    async with box(host, Spec(workdir="/srv/w", env={"A": "spec"})) as one:
        await one.exec("mkdir -p d/e; echo data > d/e/f; chmod 640 d/e/f; ln -s d/e/f link; ln d/e/f hard; mkfifo pipe")
        await one.write("/tests/t", b"test")
        async with _forked(one) as (two,):
            assert two.id != one.id
            look = 'pwd; ls -A; cat link hard; stat -c "%a %h" d/e/f; test -p pipe && echo "$A"; test "$HOME" -ef .'
            mine, other = await one.exec(look), await two.exec(look)
            assert (mine.exit_code, other.exit_code) == (0, 0), (mine, other)
            assert mine.stdout.splitlines()[1:] == other.stdout.splitlines()[1:]
            assert b"640 2" in other.stdout, other.stdout
            assert await two.read("/tests/t") == b"test"
            assert await one.download() == await two.download()


async def check_copies_do_not_touch_one_another(host: Host) -> None:
    async with box(host) as one:
        await one.exec("mkdir d; echo old | tee f g d/f; seq 1000 > lines")
        async with _forked(one, 3) as copies:
            every = [one, *copies]
            for number, each in enumerate(every):
                await each.exec(f"echo {number} > f; rm g; echo {number} >> lines; mv d moved; echo {number} > moved/n")
            for number, each in enumerate(every):
                result = await each.exec("cat f; tail -n 1 lines; cat moved/n moved/f; ls")
                text = f"{number}\n{number}\n{number}\nold\nf\nlines\nmoved\n"
                assert result.stdout.decode() == text, (number, result)


async def check_deletions_are_carried(host: Host) -> None:
    async with box(host) as one:
        await one.exec("mkdir d e; touch d/a d/b e/x; rm d/a; rm -r e")
        async with _forked(one) as (two,):
            await two.exec("rm d/b; mkdir e; touch e/new; rmdir d")
            async with _forked(two) as (three,):
                assert (await three.exec("find . | sort")).stdout == b".\n./e\n./e/new\n"
            assert (await one.exec("find . | sort")).stdout == b".\n./d\n./d/b\n"


async def check_a_fork_of_a_fork_of_a_fork(host: Host) -> None:
    async with box(host) as first:
        chain: list[Sandbox] = [first]
        try:
            for level in range(6):
                await chain[-1].exec(f"echo {level} >> log; echo {level} > only{level}")
                chain += await _state(chain[-1]).fork()
            for level, each in enumerate(chain):
                wanted = range(min(level, 5) + 1)  # what its own command and those of its ancestors wrote
                assert await each.read("log") == b"".join(b"%d\n" % n for n in wanted), level
            for each in random.Random(3).sample(chain[1:-1], 4):
                await each.close()
            assert (await chain[-1].exec("cat only0 only5")).stdout == b"0\n5\n"
        finally:
            await _close(chain[1:])


async def check_much_is_carried(host: Host) -> None:
    async with box(host, Spec(limits=Limits(disk_mb=96, memory_mb=512, inodes=4000))) as one:
        await one.exec("for d in a b c; do mkdir $d; for i in $(seq 500); do echo $d$i > $d/$i; done; done")
        await one.exec("head -c 40000000 /dev/urandom > big; cksum big > sum; truncate -s 1G sparse")
        async with _forked(one, 2) as copies:
            for each in copies:
                result = await each.exec("cksum big | cmp - sum && cat a/* b/* c/* | wc -l && stat -c %s sparse")
                assert result.stdout == b"1500\n1073741824\n", result
            await copies[0].exec("rm -r a big; echo x > big")
            assert (await copies[1].exec("cksum big | cmp - sum && ls a | wc -l")).stdout == b"500\n"


async def check_many_copies_at_once(host: Host) -> None:
    async with box(host) as one:
        await one.write("f", b"same")
        async with _forked(one, 16) as copies:
            await asyncio.gather(*(each.write("own", each.id.encode()) for each in copies))
            found = await asyncio.gather(*(each.exec("cat f own") for each in copies))
            assert [r.stdout.decode() for r in found] == [f"same{each.id}" for each in copies]
            assert len({each.id for each in copies}) == 16


async def check_copies_close_in_any_order(host: Host) -> None:
    order = random.Random(7)
    for _ in range(4):
        every = [await host.start(Spec())]
        for _ in range(5):
            parent = order.choice(every)
            await parent.exec("echo x >> log")
            every += await _state(parent).fork(order.randint(1, 2))
        order.shuffle(every)
        while every:
            await every.pop().close()
            if every:
                assert (await every[-1].exec("test -f log")).exit_code == 0


async def check_a_busy_sandbox_is_not_forked(host: Host) -> None:
    async with box(host) as one:
        running = asyncio.ensure_future(one.exec("sleep 0.5; echo end > f"))
        await asyncio.sleep(0.1)
        await raised(_state(one).fork(), Busy, "a command runs")
        await raised(_state(one).snapshot(), Busy, "a command runs")
        assert (await running).exit_code == 0
        async with _forked(one) as (two,):
            assert await two.read("f") == b"end\n"


async def check_a_fork_ends_background_processes(host: Host) -> None:
    async with box(host) as one:
        await one.exec("(while :; do echo >> beat; sleep 0.02; done) > /dev/null 2>&1 &")
        await asyncio.sleep(0.2)
        async with _forked(one) as (two,):
            before = len(await one.read("beat"))
            assert before > 2
            await asyncio.sleep(0.2)
            assert (len(await one.read("beat")), len(await two.read("beat"))) == (before, before)


async def check_a_snapshot_is_of_its_moment(host: Host) -> None:
    async with box(host) as one:
        await one.write("f", b"then")
        snapshot = await _state(one).snapshot()
        await one.exec("echo now > f; echo more > g")
        two, three = await snapshot.fork(2)
        await two.write("f", b"changed")
        (four,) = await snapshot.fork()
        await snapshot.close()
        await snapshot.close()
        try:
            assert await three.read("f") == await four.read("f") == b"then"
            assert (await four.exec("ls")).stdout == b"f\n"
            assert await one.read("f") == b"now\n"
        finally:
            await _close([two, three, four])


async def check_a_snapshot_outlives_its_sandbox(host: Host) -> None:
    async with box(host) as one:
        await one.exec("echo kept > f")
        snapshot = await _state(one).snapshot()
    (two,) = await snapshot.fork()
    await snapshot.close()
    assert await two.read("f") == b"kept\n"
    await two.close()


async def check_deep_chains_are_flattened(host: Host) -> None:
    async with box(host) as one:
        await one.exec("mkdir old keep; echo a > keep/f; ln keep/f keep/hard; echo x > old/f; chmod 750 keep")
        await one.exec("touch -d 2001-02-03 keep/f")
        for level in range(80):
            if level == 30:
                await one.exec("rm -r old; mv keep kept")
            await one.write(f"n{level}", b"%d" % level)
            snapshot = await _state(one).snapshot()
            await snapshot.close()
        async with _forked(one) as (two,):
            for each in (one, two):
                result = await each.exec("test -c /dev/null && echo x > /dev/null && ls | wc -l; stat -c '%a' kept")
                assert result.stdout.split() == [b"81", b"750"], result
                result = await each.exec("stat -c '%h %Y' kept/f; cat kept/hard n0 n79")
                assert result.stdout.split() == b"2 981158400 a 079".split(), result


async def check_a_closed_sandbox_is_not_forked(host: Host) -> None:
    one = await host.start(Spec())
    await one.close()
    await raised(_state(one).fork(), SandboxLost)
    await raised(_state(one).snapshot(), SandboxLost)


async def check_nonsense_forks_are_refused(host: Host) -> None:
    async with box(host) as one:
        await raised(_state(one).fork(0), ValueError)
        assert (await one.exec("echo alive")).stdout == b"alive\n"


async def check_a_pause_stops_everything(host: Host) -> None:
    beat = "while :; do echo >> beat; sleep 0.02; done"
    async with box(host) as one:
        running = asyncio.ensure_future(one.exec(f"({beat}) & {beat}", timeout_s=1.5))
        await asyncio.sleep(0.3)
        state = _state(one)
        await state.pause()
        await state.pause()
        before = len(await one.read("beat"))
        assert before > 4
        await asyncio.sleep(0.2)
        assert len(await one.read("beat")) == before
        await state.resume()
        await state.resume()
        await asyncio.sleep(0.3)
        assert len(await one.read("beat")) > before + 4
        await running
        assert (await one.exec("echo alive")).stdout == b"alive\n"


async def check_a_paused_sandbox_closes(host: Host) -> None:
    one = await host.start(Spec())
    running = asyncio.ensure_future(one.exec("sleep 20"))
    await asyncio.sleep(0.1)
    await _state(one).pause()
    await asyncio.wait_for(one.close(), 10)
    assert isinstance((await asyncio.gather(running, return_exceptions=True))[0], SandboxLost)
    await raised(_state(one).resume(), SandboxLost)
    await raised(_state(one).pause(), SandboxLost)


async def check_a_paused_sandbox_says_so(host: Host) -> None:
    async with box(host) as one:
        await _state(one).pause()
        assert "resume" in await raised(one.exec("true"), Busy)
        assert "resume" in await raised(_state(one).fork(), Busy)
        await _state(one).resume()
        assert (await one.exec("echo alive")).stdout == b"alive\n"


def _state(sandbox: Sandbox) -> State:
    assert isinstance(sandbox, State), "the host lacks 'fork' but does not say so"
    return sandbox


@asynccontextmanager
async def _forked(sandbox: Sandbox, n: int = 1) -> AsyncIterator[Sequence[Sandbox]]:
    copies = await _state(sandbox).fork(n)
    try:
        yield copies
    finally:
        await _close(copies)


async def _close(sandboxes: Sequence[Sandbox]) -> None:
    await asyncio.gather(*(each.close() for each in sandboxes))


_TERMINAL = "import os, pty; print(pty.spawn(['sh', '-c', 'test -t 0 && tty && tty > /dev/tty']))"


async def check_terminals_are_made_inside(host: Host) -> None:
    async with box(host, Spec(readonly=READONLY)) as one, _forked(one) as (two,):
        for sandbox in (one, two):  # tmux and script do so
            first, second, code = (await python(sandbox, _TERMINAL)).split()
            assert (first, code) == (second, b"0"), first
            assert first.startswith(b"/dev/pts/"), first


CHECKS = {
    "fork": (
        check_terminals_are_made_inside,
        check_a_fork_has_the_files,
        check_copies_do_not_touch_one_another,
        check_deletions_are_carried,
        check_a_fork_of_a_fork_of_a_fork,
        check_much_is_carried,
        check_many_copies_at_once,
        check_copies_close_in_any_order,
        check_a_busy_sandbox_is_not_forked,
        check_a_fork_ends_background_processes,
        check_a_snapshot_is_of_its_moment,
        check_a_snapshot_outlives_its_sandbox,
        check_deep_chains_are_flattened,
        check_a_closed_sandbox_is_not_forked,
        check_nonsense_forks_are_refused,
    ),
    "pause": (check_a_pause_stops_everything, check_a_paused_sandbox_closes, check_a_paused_sandbox_says_so),
}
