"""The one place where what happened to a rollout becomes its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from palmette.engine.api import ContextExhausted
from palmette.envs.grade import VerifierTimeout
from palmette.rollout.outcomes import Outcome
from palmette.sandbox.api import PathRefused, SandboxError, SandboxLost, StartFailed
from palmette.scaffolds.api import Stop


class Phase(StrEnum):
    """How far a rollout had come."""

    START = "start"  # sandbox starting, files going in
    WORK = "work"  # the scaffold drives the model
    GRADE = "grade"  # the verifier decides


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """All that is known about how a rollout ended; `error` is what escaped in `phase`, if anything did.

    `engine_stop` is the last failure the gateway saw on this session (None when its last answer was good),
    `out_of_memory` says that the last command was killed by the sandbox's memory limit, and `weights_changed` that
    the engine's weight version moved while the agent worked.
    """

    phase: Phase
    stop: Stop | None = None
    error: Exception | None = None
    engine_stop: Stop | None = None
    out_of_memory: bool = False
    weights_changed: bool = False


def classify(ending: Ending) -> Outcome:
    """Return the one outcome of a rollout that ended like this; total, so every ending has an outcome.

    An agent that submitted is OK whatever its endpoint went through on the way: it recovered. For one that did not,
    the engine's failure is the cause before the scaffold's own account of it (a CLI agent that is refused an answer
    just exits). What nobody foresaw counts as infrastructure of its phase, so it trains nothing.
    """
    if ending.error is not None:
        return _of_error(ending, ending.error)
    if ending.stop is Stop.SUBMITTED:
        return Outcome.OK
    stop = ending.engine_stop or ending.stop
    if stop is Stop.ENGINE_ERROR:
        return Outcome.WEIGHT_SWITCH if ending.weights_changed else Outcome.ENGINE_ERROR
    if stop is Stop.OVERLOADED:
        return Outcome.GATEWAY_OVERLOAD
    if stop is Stop.CONTEXT_EXHAUSTED:
        return Outcome.CONTEXT_EXHAUSTED
    if ending.out_of_memory:
        return Outcome.SANDBOX_OOM
    # a budget of time and one of turns are the same to the agent: it did not finish with what it was given
    return Outcome.TURN_LIMIT if stop in (Stop.TURN_LIMIT, Stop.TIMEOUT) else Outcome.GAVE_UP


def _of_error(ending: Ending, error: Exception) -> Outcome:
    if isinstance(error, StartFailed) or (ending.phase is Phase.START and not isinstance(error, SandboxLost)):
        return Outcome.SANDBOX_START
    if isinstance(error, PathRefused) and ending.phase is Phase.GRADE:
        return Outcome.POLICY_VIOLATION  # the agent left a work directory that cannot be taken out to be graded
    if isinstance(error, VerifierTimeout):
        return Outcome.VERIFIER_TIMEOUT
    if isinstance(error, SandboxError):
        killed = ending.phase is Phase.WORK and ending.out_of_memory
        return Outcome.SANDBOX_OOM if killed else Outcome.SANDBOX_LOST
    if ending.phase is Phase.GRADE:
        return Outcome.VERIFIER_ERROR
    if isinstance(error, ContextExhausted):
        return Outcome.CONTEXT_EXHAUSTED
    return Outcome.WEIGHT_SWITCH if ending.weights_changed else Outcome.ENGINE_ERROR
