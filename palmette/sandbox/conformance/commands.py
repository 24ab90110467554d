"""Commands: how they end, what they are given, what comes back."""

from __future__ import annotations

import asyncio
import os
import time

from palmette.sandbox.api import Host, Limits, Spec, Status
from palmette.sandbox.conformance.box import box


async def check_exit_codes(host: Host) -> None:
    async with box(host) as sandbox:
        for code in (0, 1, 42, 255):
            result = await sandbox.exec(f"exit {code}")
            assert (result.status, result.exit_code) == (Status.EXITED, code), result


async def check_output_streams_are_separate(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec("echo out; echo err >&2")
        assert (result.stdout, result.stderr, result.truncated) == (b"out\n", b"err\n", False), result


async def check_argv_is_not_interpreted(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec(["echo", "$HOME", "a  b", "*", "; exit 3"])
        assert result.stdout == b"$HOME a  b * ; exit 3\n", result


async def check_a_string_goes_through_a_shell(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec("x=2; echo $((x * 21)) | tr 4 5")
        assert result.stdout == b"52\n", result


async def check_a_missing_program_is_127(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec(["no-such-program-anywhere"])
        assert (result.status, result.exit_code, result.stderr != b"") == (Status.EXITED, 127, True), result


async def check_a_file_that_cannot_run_is_126(host: Host) -> None:
    async with box(host) as sandbox:
        await sandbox.write("plain.txt", b"not a program", 0o644)
        result = await sandbox.exec(["./plain.txt"])
        assert (result.status, result.exit_code, result.stderr != b"") == (Status.EXITED, 126, True), result


async def check_a_signal_is_told(host: Host) -> None:
    async with box(host) as sandbox:
        for name, number in (("TERM", 15), ("KILL", 9), ("SEGV", 11)):
            result = await sandbox.exec(f"kill -{name} $$; sleep 5")
            assert (result.status, result.exit_code) == (Status.SIGNALLED, 128 + number), result


async def check_signals_are_not_blocked_or_ignored(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec("grep -E '^Sig(Blk|Ign)' /proc/self/status")
        masks = [int(line.split()[1], 16) for line in result.stdout.splitlines()]
        assert masks == [0, 0], result


async def check_a_timeout_is_told_and_the_sandbox_lives_on(host: Host) -> None:
    async with box(host) as sandbox:
        began = time.monotonic()
        result = await sandbox.exec("echo early; sleep 30", timeout_s=0.3)
        assert (result.status, result.exit_code, result.stdout) == (Status.TIMEOUT, 137, b"early\n"), result
        assert 0.25 < time.monotonic() - began < 5
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def check_a_timeout_ends_the_children_too(host: Host) -> None:
    async with box(host) as sandbox:
        beat = "while :; do echo >> beat; sleep 0.02; done"
        await sandbox.exec(f"({beat}) & {beat}", timeout_s=0.8)
        before = await sandbox.read("beat")
        await asyncio.sleep(0.2)
        assert len(before) > 2
        assert await sandbox.read("beat") == before


async def check_a_timeout_ends_daemons_of_the_command(host: Host) -> None:
    async with box(host) as sandbox:
        beat = "while :; do echo >> beat; sleep 0.02; done"
        await sandbox.exec(f"(setsid sh -c '({beat}) & {beat}' &) ; setsid sh -c '{beat}' & sleep 30", timeout_s=0.8)
        before = await sandbox.read("beat")
        await asyncio.sleep(0.2)
        assert len(before) > 2
        assert await sandbox.read("beat") == before


async def check_stdin_comes_through(host: Host) -> None:
    data = os.urandom(300_000)
    async with box(host) as sandbox:
        assert (await sandbox.exec(["cat"], stdin=data)).stdout == data
        assert (await sandbox.exec("head -c 5", stdin=data)).stdout == data[:5]


async def check_stdin_is_empty_by_default(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec("cat; echo end", timeout_s=5)
        assert result.stdout == b"end\n", result


async def check_variables_of_spec_and_exec(host: Host) -> None:
    async with box(host, Spec(env={"A": "spec", "B": "spec", "EMPTY": ""})) as sandbox:
        result = await sandbox.exec('echo "$A $B $C [${EMPTY-unset}]"', env={"B": "exec", "C": "ä = é"})
        assert result.stdout.decode() == "spec exec ä = é []\n", result
        assert (await sandbox.exec('echo "$B${C-}"')).stdout == b"spec\n"


async def check_no_variable_of_the_host_leaks(host: Host) -> None:
    os.environ["PALMETTE_CONFORMANCE_SECRET"] = "leak"
    try:
        async with box(host) as sandbox:
            result = await sandbox.exec("env; tr '\\0' '\\n' < /proc/self/environ")
    finally:
        del os.environ["PALMETTE_CONFORMANCE_SECRET"]
    names = {line.split(b"=")[0] for line in result.stdout.splitlines()}
    assert b"leak" not in result.stdout, result
    assert len(names) <= 8, names
    assert {b"PATH", b"HOME", b"LANG"} <= names, names


async def check_the_work_directory(host: Host) -> None:
    async with box(host, Spec(workdir="/srv/deep/place")) as sandbox:
        assert (await sandbox.exec("pwd")).stdout.endswith(b"/srv/deep/place\n")
        await sandbox.exec("mkdir sub && echo x > here")
        assert (await sandbox.exec("pwd", cwd="sub")).stdout.endswith(b"/srv/deep/place/sub\n")
        assert (await sandbox.read("/srv/deep/place/here")) == b"x\n"
        assert (await sandbox.exec('test "$HOME" -ef .')).exit_code == 0
        assert (await sandbox.exec("pwd", cwd="nowhere")).exit_code != 0


async def check_binary_output(host: Host) -> None:
    data = bytes(range(256)) * 40 + b"\xff\xfe\x00 not \xc3( utf-8"
    async with box(host) as sandbox:
        await sandbox.write("blob", data)
        result = await sandbox.exec("cat blob; cat blob >&2")
        assert (result.stdout, result.stderr) == (data, data)


async def check_output_at_the_limit_is_whole(host: Host) -> None:
    async with box(host, Spec(limits=Limits(output_bytes=10_001))) as sandbox:
        result = await sandbox.exec("head -c 10001 /dev/zero | tr '\\0' x")
        assert (result.stdout, result.truncated) == (b"x" * 10_001, False)


async def check_output_over_the_limit_keeps_head_and_tail(host: Host) -> None:
    async with box(host, Spec(limits=Limits(output_bytes=1000))) as sandbox:
        result = await sandbox.exec("seq 1 200000; seq 1 200000 >&2")
        whole = b"".join(b"%d\n" % n for n in range(1, 200_001))
        assert result.truncated
        for stream in (result.stdout, result.stderr):
            mark = b"\n[... %d bytes cut ...]\n" % (len(whole) - 1000)
            assert stream == whole[:500] + mark + whole[-500:], stream


async def check_endless_output_ends_at_the_timeout(host: Host) -> None:
    async with box(host, Spec(limits=Limits(output_bytes=5000))) as sandbox:
        result = await sandbox.exec("yes", timeout_s=0.3)
        assert (result.status, result.truncated, len(result.stdout) < 6000) == (Status.TIMEOUT, True, True)


async def check_a_daemon_does_not_hold_up_its_command(host: Host) -> None:
    async with box(host) as sandbox:
        began = time.monotonic()
        result = await sandbox.exec("(sleep 2; echo late; echo fine > done) & echo started")
        assert (result.stdout, time.monotonic() - began < 1.8) == (b"started\n", True), result
        for _ in range(200):
            await asyncio.sleep(0.05)
            if (await sandbox.exec("cat done")).stdout == b"fine\n":  # it was not killed by a closed pipe
                return
        raise AssertionError("the daemon did not live on")


async def check_commands_run_side_by_side(host: Host) -> None:
    async with box(host) as sandbox:
        began = time.monotonic()
        results = await asyncio.gather(*(sandbox.exec(f"sleep 0.5; echo {n}; exit {n}") for n in range(12)))
        assert time.monotonic() - began < 4
        assert [(r.exit_code, r.stdout) for r in results] == [(n, b"%d\n" % n) for n in range(12)], results


async def check_cancelling_ends_the_command(host: Host) -> None:
    async with box(host) as sandbox:
        task = asyncio.ensure_future(sandbox.exec("while :; do echo >> beat; sleep 0.02; done"))
        await asyncio.sleep(0.8)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.1)
        before = await sandbox.read("beat")
        await asyncio.sleep(0.2)
        assert task.cancelled()
        assert await sandbox.read("beat") == before


async def check_a_command_too_long_is_refused(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec(["echo", "x" * 3_000_000])
        assert (result.exit_code, b"too long" in result.stderr) == (126, True), result
        assert (await sandbox.exec(["echo", "x" * 100_000])).stdout == b"x" * 100_000 + b"\n"


CHECKS = {
    "": (
        check_exit_codes,
        check_output_streams_are_separate,
        check_argv_is_not_interpreted,
        check_a_string_goes_through_a_shell,
        check_a_missing_program_is_127,
        check_a_file_that_cannot_run_is_126,
        check_a_signal_is_told,
        check_a_timeout_is_told_and_the_sandbox_lives_on,
        check_a_timeout_ends_the_children_too,
        check_stdin_comes_through,
        check_stdin_is_empty_by_default,
        check_variables_of_spec_and_exec,
        check_no_variable_of_the_host_leaks,
        check_the_work_directory,
        check_binary_output,
        check_output_at_the_limit_is_whole,
        check_output_over_the_limit_keeps_head_and_tail,
        check_endless_output_ends_at_the_timeout,
        check_a_daemon_does_not_hold_up_its_command,
        check_commands_run_side_by_side,
        check_cancelling_ends_the_command,
        check_a_command_too_long_is_refused,
    ),
    "processes": (check_a_timeout_ends_daemons_of_the_command, check_signals_are_not_blocked_or_ignored),
}
