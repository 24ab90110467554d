"""The sandboxes of a recipe: their host, their limits, and what of the world they reach."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palmette.errors import suggest
from palmette.sandbox.allow_list import parse
from palmette.sandbox.api import Host
from palmette.sandbox.bounded import BoundedHost
from palmette.sandbox.hosts import HOSTS, open_host

_NO_PROXY = ("fake", "e2b")  # hosts whose sandboxes have no allow-list


class LimitsConfig(BaseModel):
    """Bounds of one sandbox; what is not set is as `palmette.sandbox.api.Limits` has it."""

    model_config = ConfigDict(extra="forbid")

    memory_mb: int | None = Field(default=None, ge=16, description="memory of all its processes")
    pids: int | None = Field(default=None, ge=4, description="processes at the same time")
    cpus: float | None = Field(default=None, gt=0, description="cores' worth of time")
    disk_mb: int | None = Field(default=None, ge=1, description="what it may write")
    network_mb: int | None = Field(default=None, ge=1, description="through the proxy, both ways together")


class SandboxConfig(BaseModel):
    """Where agents, references and verifiers work."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(default="namespace", description="which kind: see docs/sandboxes.md")
    profile: Literal["", "root", "root-inside", "rootless"] = Field(
        default="", description="walls of the host namespace; none: the strongest that this user can have"
    )
    network: list[str] = Field(
        default_factory=list,
        description="hosts that agents and references reach: [*.]NAME[@NETWORK][:PORT]; none: nothing. Never verifiers",
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="of each sandbox, verifiers' too")

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_host(cls, value: Any) -> Any:
        return {"host": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        if self.host not in HOSTS:
            known = ", ".join(sorted(HOSTS))
            raise ValueError(f"unknown sandbox '{self.host}'{suggest(self.host, HOSTS)} (known: {known})")
        if self.profile and self.host != "namespace":
            raise ValueError(f"profile = {self.profile} is of host = namespace, and host is {self.host}")
        if self.network and self.host in _NO_PROXY:
            raise ValueError(f"host = {self.host} has no allow-list, so network must be empty: use host = namespace")
        if "none" in self.network:
            raise ValueError("network = [] is none at all; 'none' would be the name of a host")
        for entry in self.network:
            parse(entry)
        return self


def open_walls(config: SandboxConfig) -> tuple[Host, Host]:
    """Return the host for agents and references, and that for verifiers, which reaches nothing; the second closes both.

    Raises `UserError`.
    """
    host = open_host(f"{config.host}:{config.profile}" if config.profile else config.host)
    closed = BoundedHost(host, limits=config.limits.model_dump())
    return BoundedHost(closed, network=tuple(config.network)), closed
