"""What a front and its shards say to one another: calls, their answers, and errors that keep their type."""

from __future__ import annotations

import sys
import traceback
from typing import Any, TypeVar

import msgspec

from palmette.errors import UserError
from palmette.sandbox.api import Bounds, Busy, PathRefused, SandboxError, SandboxLost, StartFailed

_T = TypeVar("_T")
_NOTHING = msgspec.Raw(b"\xc0")
_ERRORS: dict[str, type[Exception]] = {
    "BrokenPipeError": BrokenPipeError,
    "Busy": Busy,
    "PathRefused": PathRefused,
    "SandboxError": SandboxError,
    "SandboxLost": SandboxLost,
    "StartFailed": StartFailed,
    "UserError": UserError,
    "ValueError": ValueError,
}
CANCELLED = "cancelled"


class Call(msgspec.Struct, array_like=True, frozen=True):
    """To a shard. Without a `number` nobody waits for the answer."""

    number: int
    verb: str
    target: int = 0  # a sandbox, snapshot or process of the shard, by the number it gave
    arguments: msgspec.Raw = _NOTHING


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """To the front. Without a `number`: the sandbox whose number and last words are the `value` is gone."""

    number: int
    error: str = ""  # a key of the table of errors, `CANCELLED`, or ""
    value: msgspec.Raw = _NOTHING


class Born(msgspec.Struct, array_like=True, frozen=True):
    """A sandbox that a shard has started."""

    number: int
    id: str
    gateway_url: str | None


class Command(msgspec.Struct, array_like=True, frozen=True):
    """Arguments of ``exec`` and ``open``."""

    command: str | list[str]
    stdin: bytes
    env: dict[str, str] | None
    cwd: str | None
    timeout_s: float
    bounds: Bounds | None
    terminal: tuple[int, int] | None


class File(msgspec.Struct, array_like=True, frozen=True):
    """Arguments of what has to do with files."""

    path: str
    data: bytes = b""
    mode: int = 0


def pack(value: object) -> bytes:
    """Return the bytes of a message, or of a value inside one."""
    return _encoder.encode(value)


def raw(value: object) -> msgspec.Raw:
    """Return a value as it stands inside a message."""
    return _NOTHING if value is None else msgspec.Raw(_encoder.encode(value))


def unpack(data: bytes | msgspec.Raw, kind: type[_T] | Any) -> _T:
    """Return the value of type `kind` that `data` holds."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return decoder.decode(data)


def described(error: BaseException) -> tuple[str, str]:
    """Return the name and text of an error as they travel."""
    for kind in type(error).__mro__:
        if _ERRORS.get(kind.__name__) is kind:
            return kind.__name__, str(error)
    traceback.print_exception(error, file=sys.stderr)
    return "SandboxError", f"its shard failed: {type(error).__name__}: {error}"


def revived(name: str, text: str) -> Exception:
    """Return the error that was `described`."""
    return _ERRORS.get(name, SandboxError)(text)


_encoder = msgspec.msgpack.Encoder()
_decoders: dict[object, msgspec.msgpack.Decoder[Any]] = {}
