"""Commands that are talked to while they run, in pipes and terminals; what a command used, and its own limits."""

from __future__ import annotations

import asyncio
import signal
import time

from palmette.sandbox.api import Bounds, Host, Process, Sandbox, SandboxLost, Spec, Status, Streams
from palmette.sandbox.conformance.box import PYTHON, READONLY, box, raised


async def check_output_streams_as_it_comes(host: Host) -> None:
    async with box(host) as sandbox:
        process = await _streams(sandbox).open("echo one; echo err >&2; read x; echo two $x; exit 4")
        heard: list[tuple[str, bytes]] = []
        async for name, chunk in process.output():
            heard.append((name, chunk))
            if _text(heard, "stdout") == b"one\n" and _text(heard, "stderr") == b"err\n":
                await process.write(b"in\n")  # it waits for us: what came so far did not wait for its end
        assert _text(heard, "stdout") == b"one\ntwo in\n"
        result = await process.wait()
        assert (result.status, result.exit_code, result.stdout) == (Status.EXITED, 4, b""), result


async def check_a_conversation(host: Host) -> None:
    async with box(host) as sandbox:
        process = await _streams(sandbox).open(["/bin/sh"])
        chunks = process.output()
        for number in range(50):
            await process.write(f"echo $(({number} * 3))\n".encode())
            assert await anext(chunks) == ("stdout", b"%d\n" % (number * 3))
        await process.end_input()
        await process.end_input()
        assert [chunk async for chunk in chunks] == []
        assert (await process.wait()).exit_code == 0
        assert isinstance(await _outcome(process.write(b"x")), BrokenPipeError)


async def check_large_streams_both_ways(host: Host) -> None:
    data = bytes(range(256)) * 12_000
    async with box(host) as sandbox:
        process = await _streams(sandbox).open(["cat"])

        async def feed() -> None:
            await process.write(data)
            await process.end_input()

        feeding = asyncio.ensure_future(feed())
        back = b"".join([chunk async for _, chunk in process.output()])
        await feeding
        assert back == data


async def check_an_unread_stream_waits(host: Host) -> None:
    async with box(host) as sandbox:
        process = await _streams(sandbox).open("head -c 3000000 /dev/zero; echo end > done")
        await asyncio.sleep(0.3)
        assert (await sandbox.exec("cat done")).exit_code != 0, "it went on though nobody read"
        assert sum([len(chunk) async for _, chunk in process.output()]) == 3_000_000
        assert (await process.wait()).exit_code == 0


async def check_waiting_throws_output_away(host: Host) -> None:
    async with box(host) as sandbox:
        process = await _streams(sandbox).open("head -c 3000000 /dev/zero; exit 3")
        assert (await process.wait()).exit_code == 3


async def check_streamed_commands_time_out(host: Host) -> None:
    async with box(host) as sandbox:
        began = time.monotonic()
        process = await _streams(sandbox).open("echo early; sleep 30", timeout_s=0.4)
        heard = [chunk async for _, chunk in process.output()]
        result = await process.wait()
        assert (result.status, heard) == (Status.TIMEOUT, [b"early\n"]), result
        assert time.monotonic() - began < 5


async def check_a_signal_to_a_streamed_command(host: Host) -> None:
    async with box(host) as sandbox:
        process = await _streams(sandbox).open(
            "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
        )
        chunks = process.output()
        assert await anext(chunks) == ("stdout", b"ready\n")
        await process.signal(signal.SIGUSR1)
        assert b"caught\n" in [chunk async for _, chunk in chunks]
        assert (await process.wait()).exit_code == 9
        await process.signal(signal.SIGTERM)  # it has ended: nothing happens
        process = await _streams(sandbox).open("trap '' TERM; sleep 30 & wait")
        await process.signal(signal.SIGKILL)
        assert (await process.wait()).status is Status.SIGNALLED


async def check_closing_ends_streamed_commands(host: Host) -> None:
    sandbox = await host.start(Spec())
    process = await _streams(sandbox).open("echo on; sleep 30")
    chunks = process.output()
    assert await anext(chunks) == ("stdout", b"on\n")
    await sandbox.close()
    assert [chunk async for chunk in chunks] == []
    await raised(process.wait(), SandboxLost)
    await raised(_streams(sandbox).open("true"), SandboxLost)


async def check_a_program_that_cannot_be_streamed(host: Host) -> None:
    async with box(host) as sandbox:
        process = await _streams(sandbox).open(["no-such-program-anywhere"])
        assert (await process.wait()).exit_code == 127
        await raised(process.resize(10, 10), ValueError)


async def check_a_terminal(host: Host) -> None:
    async with box(host) as sandbox:
        process = await _streams(sandbox).open("test -t 0 && test -t 1 && stty size; cat", terminal=(31, 97))
        heard = await _until(process, b"31 97\r\n")
        await process.write(b"typed\n")
        heard += await _until(process, b"typed\r\ntyped\r\n")  # the echo, then cat
        await process.resize(20, 50)
        await process.end_input()
        rest = b"".join([chunk async for _, chunk in process.output()])
        assert (await process.wait()).exit_code == 0, (heard, rest)


async def check_a_terminal_interrupts(host: Host) -> None:
    async with box(host) as sandbox:
        trap = "trap 'stty size; exit 7' INT; echo go; while :; do sleep 0.05; done"
        process = await _streams(sandbox).open(trap, terminal=(5, 5))
        await _until(process, b"go")
        await process.resize(20, 50)
        await process.write(b"\x03")
        assert b"20 50" in await _until(process, b"20 50")
        assert (await process.wait()).exit_code == 7


async def check_usage_is_told(host: Host) -> None:
    burn = "import time\nx = bytearray(90 << 20)\nwhile time.process_time() < 0.4: pass"
    async with box(host, Spec(readonly=READONLY)) as sandbox:
        idle = await sandbox.exec("sleep 0.3")
        busy = await sandbox.exec([PYTHON, "-I", "-c", burn])
        assert busy.exit_code == 0, busy
        assert 0.4 <= busy.usage.cpu_s < 1.5, busy.usage
        assert 90 <= busy.usage.peak_mb < 200 + idle.usage.peak_mb, busy.usage  # of the fake, our own size is in both
        assert idle.usage.cpu_s < 0.2, idle.usage
        child = await sandbox.exec(f"{PYTHON} -I -c '{burn}'; true")
        assert child.usage.cpu_s >= 0.4, child.usage


async def check_bounds_of_one_command(host: Host) -> None:
    async with box(host, Spec(readonly=READONLY)) as sandbox:
        eat = [PYTHON, "-I", "-c", "x = bytearray(300 << 20); print('fine')"]
        assert b"MemoryError" in (await sandbox.exec(eat, bounds=Bounds(memory_mb=200))).stderr
        assert (await sandbox.exec(eat)).stdout == b"fine\n"
        spin = await sandbox.exec("while :; do :; done", bounds=Bounds(cpu_s=1), timeout_s=20)
        assert (spin.status, spin.exit_code) == (Status.SIGNALLED, 128 + signal.SIGXCPU), spin
        big = await sandbox.exec("head -c 3000000 /dev/zero > big; stat -c %s big", bounds=Bounds(file_mb=1))
        assert big.stdout == b"1048576\n", big
        cut = await sandbox.exec("seq 1000", bounds=Bounds(output_bytes=10))
        assert (cut.stdout, cut.truncated) == (b"1\n2\n3\n[... 3883 bytes cut ...]\n1000\n", True), cut
    for name in ("memory_mb", "cpu_s", "file_mb", "output_bytes"):
        try:
            Bounds(**{name: 0})
        except ValueError:
            continue
        raise AssertionError(f"a limit of zero was taken: {name}")


def _streams(sandbox: Sandbox) -> Streams:
    assert isinstance(sandbox, Streams), "the host lacks 'streams' but does not say so"
    return sandbox


def _text(heard: list[tuple[str, bytes]], stream: str) -> bytes:
    return b"".join(chunk for name, chunk in heard if name == stream)


async def _until(process: Process, wanted: bytes) -> bytes:
    heard = b""
    async with asyncio.timeout(20):
        async for _, chunk in process.output():
            heard += chunk
            if wanted in heard:
                return heard
    raise AssertionError((wanted, heard))


async def _outcome(action) -> BaseException | None:
    return (await asyncio.gather(action, return_exceptions=True))[0]


CHECKS = {
    "streams": (
        check_output_streams_as_it_comes,
        check_a_conversation,
        check_large_streams_both_ways,
        check_an_unread_stream_waits,
        check_waiting_throws_output_away,
        check_streamed_commands_time_out,
        check_a_signal_to_a_streamed_command,
        check_closing_ends_streamed_commands,
        check_a_program_that_cannot_be_streamed,
        check_a_terminal,
        check_a_terminal_interrupts,
    ),
    "bounds": (check_usage_is_told, check_bounds_of_one_command),
}
