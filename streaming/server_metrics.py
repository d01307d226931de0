"""Counters for Prometheus in its text format (version 0.0.4): a few lines do not need a library."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable

LAG_BOUNDS_S = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0)
HELP = {
    "mmx_http_requests_total": "Requests to the audio endpoints, by endpoint and status.",
    "mmx_audio_seconds_total": "Seconds of sound that were worked on, by kind.",
    "mmx_sessions_total": "Live sessions begun.",
    "mmx_resumes_total": "Connections that went on with a session.",
    "mmx_errors_total": "Errors told to live clients, by code.",
    "mmx_live_lag_seconds": "From a word's end to its text, on the server.",
    "mmx_sessions": "Live sessions now, by whether somebody is connected.",
    "mmx_jobs": "Recordings being transcribed or waiting.",
}


class Metrics:
    """Counts of one server; used from the event loop only."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(lambda: defaultdict(float))
        self.gauges: dict[str, Callable[[], dict[tuple[tuple[str, str], ...], float]]] = {}
        self.lags = [0] * (len(LAG_BOUNDS_S) + 1)
        self.lag_sum_s = 0.0

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self.counts[name][tuple(sorted(labels.items()))] += amount

    def gauge(self, name: str, read: Callable[[], dict[tuple[tuple[str, str], ...], float]]) -> None:
        """A value that is read when it is asked for."""
        self.gauges[name] = read

    def lag(self, seconds: float) -> None:
        """Count one word's lag."""
        self.lags[bisect_left(LAG_BOUNDS_S, seconds)] += 1
        self.lag_sum_s += seconds

    def render(self) -> str:
        """The page that Prometheus reads."""
        lines: list[str] = []
        for name, rows in self.counts.items():
            lines += _table(name, "counter", rows)
        for name, read in self.gauges.items():
            lines += _table(name, "gauge", read())
        name, total = "mmx_live_lag_seconds", 0
        lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} histogram"]
        for bound, n in zip((*LAG_BOUNDS_S, math.inf), self.lags, strict=True):
            total += n
            lines.append(f'{name}_bucket{{le="{"+Inf" if math.isinf(bound) else bound}"}} {total}')
        lines += [f"{name}_sum {self.lag_sum_s:.6g}", f"{name}_count {total}"]
        return "\n".join(lines) + "\n"


def _table(name: str, kind: str, rows: dict[tuple[tuple[str, str], ...], float]) -> list[str]:
    lines = [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}"]
    for labels, value in rows.items():
        inside = ",".join(f'{k}="{_escape(v)}"' for k, v in labels)
        lines.append(f"{name}{{{inside}}} {value:.10g}" if inside else f"{name} {value:.10g}")
    return lines


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
