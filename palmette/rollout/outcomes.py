"""The closed set of ways a rollout can end, and what each may be used for.

A reward is a number only where `trust_reward` holds, otherwise it is absent (None, never 0). Infrastructure failures
neither count in a group's baseline nor train anything, so any number of them changes no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How one rollout ended."""

    OK = "ok"  # the agent said it was done; the verifier's number is the reward
    GAVE_UP = "gave_up"  # the agent stopped without submitting
    TURN_LIMIT = "turn_limit"
    CONTEXT_EXHAUSTED = "context_exhausted"
    ENGINE_ERROR = "engine_error"
    GATEWAY_OVERLOAD = "gateway_overload"
    WEIGHT_SWITCH = "weight_switch"
    SANDBOX_START = "sandbox_start"
    SANDBOX_LOST = "sandbox_lost"
    SANDBOX_OOM = "sandbox_oom"
    VERIFIER_ERROR = "verifier_error"
    VERIFIER_TIMEOUT = "verifier_timeout"
    POLICY_VIOLATION = "policy_violation"  # the agent tampered with what it was told not to touch: reward 0, trusted
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Rule:
    """What an outcome permits."""

    trust_reward: bool
    retryable: bool
    counts_in_baseline: bool
    trainable: bool


_AGENT = Rule(trust_reward=True, retryable=False, counts_in_baseline=True, trainable=True)
_INFRASTRUCTURE = Rule(trust_reward=False, retryable=True, counts_in_baseline=False, trainable=False)
_CANCELLED = Rule(trust_reward=False, retryable=False, counts_in_baseline=False, trainable=False)

RULES: dict[Outcome, Rule] = {
    Outcome.OK: _AGENT,
    Outcome.GAVE_UP: _AGENT,
    Outcome.TURN_LIMIT: _AGENT,
    Outcome.CONTEXT_EXHAUSTED: _AGENT,
    Outcome.POLICY_VIOLATION: _AGENT,
    Outcome.SANDBOX_OOM: _AGENT,  # the agent's own commands met the limit it was given
    Outcome.ENGINE_ERROR: _INFRASTRUCTURE,
    Outcome.GATEWAY_OVERLOAD: _INFRASTRUCTURE,
    Outcome.WEIGHT_SWITCH: _INFRASTRUCTURE,
    Outcome.SANDBOX_START: _INFRASTRUCTURE,
    Outcome.SANDBOX_LOST: _INFRASTRUCTURE,
    Outcome.VERIFIER_ERROR: _INFRASTRUCTURE,
    Outcome.VERIFIER_TIMEOUT: _INFRASTRUCTURE,
    Outcome.CANCELLED: _CANCELLED,
}
