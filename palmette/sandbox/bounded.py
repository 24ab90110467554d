"""A host whose sandboxes have other limits, and reach other hosts, than those who ask for them say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

from palmette.sandbox.api import Host, Limits, Sandbox, Spec

_USUAL = Limits()


class BoundedHost:
    """Hands every spec on to `inner` with `limits` (of `Limits`, by name) and `network` (of `Spec.network`) put in.

    A limit that whoever asks has changed himself, because a task or an agent needs the room, stays if it is larger.
    Closing it closes `inner`.
    """

    def __init__(
        self, inner: Host, *, limits: Mapping[str, int | float | None] | None = None, network: tuple[str, ...] = ()
    ) -> None:
        self._inner, self._network = inner, network
        self._limits = {name: value for name, value in (limits or {}).items() if value is not None}
        if unknown := self._limits.keys() - {field.name for field in fields(Limits)}:
            raise ValueError(f"there is no limit {sorted(unknown)[0]}")

    @property
    def name(self) -> str:
        """That of the host behind it."""
        return self._inner.name

    @property
    def lacks(self) -> Iterable[str]:
        """What the host behind it says that it cannot do."""
        return getattr(self._inner, "lacks", ())

    async def start(self, spec: Spec) -> Sandbox:
        """Start a sandbox. Raises what the host behind it raises."""
        changed = {name: self._limit(name, value, spec) for name, value in self._limits.items()}
        network = tuple(dict.fromkeys((*spec.network, *self._network)))
        return await self._inner.start(replace(spec, limits=replace(spec.limits, **changed), network=network))

    def weaknesses(self) -> tuple[str, ...]:
        """What the host behind it does not isolate."""
        return self._inner.weaknesses()

    async def close(self) -> None:
        """Close the host behind it. Idempotent."""
        await self._inner.close()

    @staticmethod
    def _limit(name: str, value: float, spec: Spec) -> float:
        asked = getattr(spec.limits, name)
        return value if asked is None or asked == getattr(_USUAL, name) else max(asked, value)
