"""What the gateway counts, in the text format of Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LAG_EVERY_S = 0.1
_LAGS = 600  # kept: the last minute
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_HELP = {
    "requests_total": ("counter", "Requests by path and status."),
    "tokens_total": ("counter", "Tokens of answered prompts, and tokens sampled."),
    "turns_total": ("counter", "Answers recorded."),
    "forks_total": ("counter", "Answers recorded on a new branch of their session's tree."),
    "rejected_total": ("counter", "Requests answered 429 or 503 because there was no room."),
}


class Metrics:
    """Counters by name and label, the time answers took, and how late the event loop was in the last minute."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()  # by name and labels, e.g. ("tokens_total", 'kind="sampled"')
        self.mean_s = 1.0  # of recent answers
        self._took = [0] * (len(_BUCKETS_S) + 1)
        self._took_s = 0.0
        self._lags: deque[float] = deque(maxlen=_LAGS)

    def count(self, name: str, labels: str = "", by: int = 1) -> None:
        """Add to a counter."""
        self.counts[name, labels] += by

    def took(self, seconds: float) -> None:
        """Count an answer and the time it took."""
        at = next((at for at, edge in enumerate(_BUCKETS_S) if seconds <= edge), len(_BUCKETS_S))
        self._took[at] += 1
        self._took_s += seconds
        self.mean_s += 0.05 * (seconds - self.mean_s)

    async def watch_loop(self) -> None:
        """Measure for ever how late the event loop is."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(LAG_EVERY_S)
            self._lags.append(max(0.0, time.perf_counter() - began - LAG_EVERY_S))

    def state(self, gauges: Mapping[str, float]) -> list[Any]:
        """Return everything as plain values, with `gauges` of the moment, for `join` in another process."""
        counts = [(name, labels, value) for (name, labels), value in self.counts.items()]
        return [counts, self._took, self._took_s, list(self._lags), dict(gauges)]

    def join(self, state: list[Any]) -> dict[str, float]:
        """Add what another process counted; return its gauges."""
        counts, took, took_s, lags, gauges = state
        for name, labels, value in counts:
            self.counts[name, labels] += value
        self._took = [one + other for one, other in zip(self._took, took, strict=True)]
        self._took_s += took_s
        self._lags = deque([*self._lags, *lags])
        return gauges

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return everything, with `gauges` of the moment."""
        lines = []
        for name, (kind, said) in _HELP.items():
            lines += [f"# HELP palmette_{name} {said}", f"# TYPE palmette_{name} {kind}"]
            given = {labels: value for (counted, labels), value in self.counts.items() if counted == name}
            lines += [_line(name, labels, value) for labels, value in sorted((given or {"": 0}).items())]
        lags = sorted(self._lags) or [0.0]
        late = {
            "loop_lag_seconds_max": lags[-1],
            "loop_lag_seconds_p99": lags[int(0.99 * (len(lags) - 1))],
            "loop_lag_seconds_p50": lags[len(lags) // 2],
        }
        for name, value in {**gauges, **late}.items():
            lines += [f"# TYPE palmette_{name} gauge", _line(name, "", value)]
        lines.append("# TYPE palmette_answer_seconds histogram")
        total = 0
        for edge, count in zip((*_BUCKETS_S, "+Inf"), self._took, strict=True):
            total += count
            lines.append(_line("answer_seconds_bucket", f'le="{edge}"', total))
        lines += [_line("answer_seconds_sum", "", self._took_s), _line("answer_seconds_count", "", total)]
        return "\n".join(lines) + "\n"


class Counted:
    """An application whose responses are counted by what `name` makes of the path, and their status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, names: dict[str, str]) -> None:
        self._app, self._metrics, self._names = app, metrics, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            path = scope["path"]
            name = next((name for end, name in self._names.items() if path.endswith(end)), "other")
            self._metrics.count("requests_total", f'dialect="{name}",status="{status or 499}"')
            if status == 200 and name not in ("other", "metrics", "health"):
                self._metrics.took(time.perf_counter() - began)


def _line(name: str, labels: str, value: float) -> str:
    return f"palmette_{name}{{{labels}}} {value}" if labels else f"palmette_{name} {value}"
