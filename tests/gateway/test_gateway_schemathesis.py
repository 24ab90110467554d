"""What schemathesis makes of our published schema, right and wrong, is answered as the schema says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from palmette.engine.scripted import ScriptedEngine

_EXAMPLES = 3
schemathesis = pytest.importorskip("schemathesis", reason="of the extra dev")


def attack(base: str, examples: int) -> Counter[int]:
    """Send `examples` generated requests of each kind to each operation; return how often each status came.

    Raises what schemathesis raises for an answer that is a 5xx, or of a status or content type that is not published.
    """
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

    checks: Any = [not_a_server_error, status_code_conformance, content_type_conformance]
    statuses: Counter[int] = Counter()
    for found in schemathesis.openapi.from_url(f"{base}/openapi.json").get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and found.ok().method != "post":
                continue  # there is nothing to be wrong

            @seed(0)
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            )
            @given(case=found.ok().as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                answer = case.call_and_validate(base_url=base, checks=checks, timeout=30)
                statuses[answer.status_code] += 1

            send()
    return statuses


async def test_generated_requests_are_answered_as_published(
    open_gateway: Callable[..., Any], say: Callable[..., list[int]]
) -> None:
    """A few of each kind; `schemathesis run` on the document of a `palmette serve` makes thousands."""
    gateway = await open_gateway(ScriptedEngine(lambda _: say("hi")), public_key="")
    statuses = await asyncio.to_thread(attack, f"http://127.0.0.1:{gateway.port}", _EXAMPLES)
    assert statuses[200] >= 3, "good requests are among them"
    assert statuses[400] >= 3
    assert sum(statuses.values()) >= 11 * _EXAMPLES
