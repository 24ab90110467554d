"""Scaffolds by domain, each with its share of the rollouts, in an order that keeps the shares at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from palmette.scaffolds.api import Scaffold

ALL = "all"  # in the place of a domain: whichever has no shares of its own


class Crew:
    """Opened scaffolds, and of each domain (or `ALL`) the names and shares, e.g. ``{"swe": {"loop": 3, "codex": 1}}``.

    `default` drives whatever nobody has a share of. Raises what `open_` raises for a name that is not known, and
    `ValueError` for a share that is not positive.
    """

    def __init__(
        self, shares: Mapping[str, Mapping[str, float]], default: str, open_: Callable[[str], Scaffold]
    ) -> None:
        for domain, of_domain in shares.items():
            for name, share in of_domain.items():
                if not share > 0:
                    raise ValueError(f"the share of {name} in {domain} must be positive, not {share}")
        self._rotas = {domain: _Rota(of_domain) for domain, of_domain in shares.items() if of_domain}
        self._rotas.setdefault(ALL, _Rota({default: 1.0}))
        self._open = open_
        self._opened = {name: open_(name) for rota in self._rotas.values() for name in rota.shares}

    def names(self, domain: str) -> tuple[str, ...]:
        """Return the scaffolds that drive a domain's rollouts."""
        return tuple(self._of(domain).shares)

    def scaffold(self, domain: str, number: int) -> Scaffold:
        """Return who drives the `number`-th rollout (or group) of a domain.

        Of the first n, whatever n is, each scaffold has about its share.
        """
        return self._opened[self._of(domain).turn(number)]

    def named(self, name: str) -> Scaffold:
        """Return a scaffold by name, opened now if it has no share. Raises what opening raises."""
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    async def aclose(self) -> None:
        """Close every scaffold. Idempotent where they are."""
        for scaffold in self._opened.values():
            if close := getattr(scaffold, "aclose", None):
                await close()

    def _of(self, domain: str) -> _Rota:
        return self._rotas.get(domain) or self._rotas[ALL]


class _Rota:
    """Whose turn it is, the one most behind its share first; of equals the one named first."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        whole = sum(shares.values())
        self.shares = {name: share / whole for name, share in shares.items()}
        self._had = dict.fromkeys(shares, 0)
        self._turns: list[str] = []  # as far as anybody has asked

    def turn(self, number: int) -> str:
        while len(self._turns) <= number:
            turns = len(self._turns) + 1
            name = max(self.shares, key=lambda each: self.shares[each] * turns - self._had[each])
            self._had[name] += 1
            self._turns.append(name)
        return self._turns[number]
