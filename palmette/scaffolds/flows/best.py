"""Best of n: several attempts, each from the beginning with a fresh context, and then the model says which to keep."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass

from palmette.sandbox.api import Sandbox, SandboxError
from palmette.scaffolds.api import NOTHING, Endpoint, Offer, Stop
from palmette.scaffolds.loop import ToolLoop
from palmette.scaffolds.tools import shorten

_CLEAR = "chmod -R u+rwX . 2>/dev/null; find . -mindepth 1 -delete"
_SHOWN_CHARS = 1200  # of one attempt's changes
_BROKEN = (Stop.ENGINE_ERROR, Stop.OVERLOADED)
_CHOOSE = "Which attempt solves the task best? Answer with its number."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """How one attempt ended, and the files of its work directory."""

    stop: Stop
    files: bytes


class BestOf:
    """Lets a loop make `tries` attempts in one sandbox, its files put back before each, and keeps the chosen one's.

    The model chooses among those that were submitted (among all if none was), from what each changed. What is not put
    back: processes that an attempt left running, and files outside the work directory. A task that brings tools or a
    user gets a single attempt, for what these remember cannot be put back.
    """

    inside = False

    def __init__(self, loop: ToolLoop, tries: int) -> None:
        if tries < 1:
            raise ValueError(f"best needs at least one attempt, not {tries}")
        self.name = f"{loop.name}{',' if ':' in loop.name else ':'}best={tries}"
        self.tries = tries
        self._loop = loop

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
        """Attempt, choose, put the chosen files there. Raises what the loop raises."""
        if self.tries == 1 or offer.tools or offer.say:
            return await self._loop.run(instruction, sandbox, endpoint, offer=offer)
        begun = await sandbox.download()
        attempts: list[_Attempt] = []
        for number in range(self.tries):
            if number:
                await _put_back(sandbox, begun)
            stop = await self._loop.run(instruction, sandbox, endpoint, offer=offer)
            if stop in _BROKEN:
                return stop
            attempts.append(_Attempt(stop=stop, files=await sandbox.download()))
        among = [attempt for attempt in attempts if attempt.stop is Stop.SUBMITTED] or attempts
        chosen = await self._chosen(instruction, begun, among, endpoint)
        if isinstance(chosen, Stop):
            return chosen
        if chosen.files != attempts[-1].files:
            await _put_back(sandbox, chosen.files)
        return chosen.stop

    async def aclose(self) -> None:
        """Close the loop's connections. Idempotent."""
        await self._loop.aclose()

    async def _chosen(
        self, instruction: str, begun: bytes, among: list[_Attempt], endpoint: Endpoint
    ) -> _Attempt | Stop:
        """Return the attempt that the model chooses; the first where all came to the same or no number is said."""
        if all(attempt.files == among[0].files for attempt in among):
            return among[0]
        told = [f"Attempt {number}:\n{_changes(begun, each.files)}" for number, each in enumerate(among, 1)]
        asked = "\n\n".join([instruction, *told, _CHOOSE])
        system = {"role": "system", "content": "You choose the best of several attempts at a task."}
        answer = await self._loop.completions.ask(endpoint, [system, {"role": "user", "content": asked}], [])
        if isinstance(answer, Stop):
            return among[0] if answer is Stop.CONTEXT_EXHAUSTED else answer
        number = re.search(r"\d+", answer.message.get("content") or "")
        return among[int(number[0]) - 1] if number and 1 <= int(number[0]) <= len(among) else among[0]


async def _put_back(sandbox: Sandbox, files: bytes) -> None:
    cleared = await sandbox.exec(["sh", "-c", _CLEAR])
    if cleared.exit_code:
        raise SandboxError(f"the work directory could not be cleared for another attempt: {cleared.stderr[-200:]!r}")
    await sandbox.upload(files)


def _changes(before: bytes, after: bytes) -> str:
    """Return what files an attempt made, changed and removed, with their beginnings."""
    old, new = _files(before), _files(after)
    lines = [f"removed {path}" for path in sorted(old.keys() - new.keys())]
    for path in sorted(path for path in new if new[path] != old.get(path)):
        lines.append(f"{'changed' if path in old else 'made'} {path}:\n{new[path].decode(errors='replace')}")
    return shorten("\n".join(lines) or "nothing was changed", _SHOWN_CHARS)


def _files(archive: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isreg() and (file := tar.extractfile(member)):
                found[member.name.removeprefix("./")] = file.read()
    return found
