"""Counters for Prometheus in its text format (version 0.0.4): a few lines do not need a library."""

import math
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

LAG_BOUNDS_S = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0)
WORK_BOUNDS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 1800.0)
FIRST_BOUNDS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
LAG, WAIT, WORK = "mmx_live_lag_seconds", "mmx_recording_wait_seconds", "mmx_recording_work_seconds"
FIRST = "mmx_speech_first_audio_seconds"
HELP = {
    "mmx_http_requests_total": "Requests, by endpoint and status; 499 is a client that left.",
    "mmx_connections_refused_total": "Connections closed before they asked for anything, by reason.",
    "mmx_live_closes_total": "Live connections that ended, by the code of their close.",
    "mmx_audio_seconds_total": "Seconds of audio that were processed, by kind.",
    "mmx_sessions_total": "Live sessions begun.",
    "mmx_resumes_total": "Connections that went on with a session.",
    "mmx_errors_total": "Errors sent to live clients, by code.",
    "mmx_live_lag_seconds": "From a word's end to its text, on the server.",
    "mmx_recording_wait_seconds": "Of recordings: waiting for their turns.",
    "mmx_recording_work_seconds": "Of recordings: being transcribed.",
    "mmx_speech_first_audio_seconds": "Of texts to speak: from the request to the first bytes of sound.",
    "mmx_speech_jobs": "Texts being spoken or waiting.",
    "mmx_uploads": "Recordings on their way here.",
    "mmx_connections": "Open connections, live ones too.",
    "process_resident_memory_bytes": "Memory of the process.",
    "mmx_sessions": "Live sessions now, by whether somebody is connected.",
    "mmx_jobs": "Recordings being transcribed or waiting.",
}


class Histogram:
    """How often a time was within each bound.

    Args:
        bounds_s: the bounds, rising.
    """

    def __init__(self, bounds_s: tuple[float, ...]):
        self.bounds_s, self.counts, self.sum_s = bounds_s, [0] * (len(bounds_s) + 1), 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def lines(self, name: str) -> list[str]:
        """As Prometheus reads it."""
        lines, total = [f"# HELP {name} {HELP[name]}", f"# TYPE {name} histogram"], 0
        for bound, n in zip((*self.bounds_s, math.inf), self.counts, strict=True):
            total += n
            lines.append(f'{name}_bucket{{le="{"+Inf" if math.isinf(bound) else bound}"}} {total}')
        return [*lines, f"{name}_sum {self.sum_s:.6g}", f"{name}_count {total}"]


class Metrics:
    """Counts of one server; used from the event loop only."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(lambda: defaultdict(float))
        self.gauges: dict[str, Callable[[], dict[tuple[tuple[str, str], ...], float]]] = {}
        self.times = {LAG: Histogram(LAG_BOUNDS_S), WAIT: Histogram(WORK_BOUNDS_S), WORK: Histogram(WORK_BOUNDS_S)}
        self.times[FIRST] = Histogram(FIRST_BOUNDS_S)
        self.gauge("process_resident_memory_bytes", _memory)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self.counts[name][tuple(sorted(labels.items()))] += amount

    def gauge(self, name: str, read: Callable[[], dict[tuple[tuple[str, str], ...], float]]) -> None:
        """A value that is read when it is asked for."""
        self.gauges[name] = read

    def time(self, name: str, seconds: float) -> None:
        """Count one time of `WAIT`, `WORK` or `FIRST`."""
        self.times[name].add(seconds)

    def lag(self, seconds: float) -> None:
        """Count one word's lag."""
        self.time(LAG, seconds)

    def render(self) -> str:
        """The page that Prometheus reads."""
        lines: list[str] = []
        for name, rows in self.counts.items():
            lines += _table(name, "counter", rows)
        for name, read in self.gauges.items():
            lines += _table(name, "gauge", read())
        for name, histogram in self.times.items():
            lines += histogram.lines(name)
        return "\n".join(lines) + "\n"


def _memory() -> dict[tuple[tuple[str, str], ...], float]:
    """Bytes that are in memory; nothing where the system does not tell (Linux does)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return {}
    return {(): float(pages * os.sysconf("SC_PAGE_SIZE"))}


def _table(name: str, kind: str, rows: dict[tuple[tuple[str, str], ...], float]) -> list[str]:
    lines = [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}"]
    for labels, value in rows.items():
        inside = ",".join(f'{k}="{_escape(v)}"' for k, v in labels)
        lines.append(f"{name}{{{inside}}} {value:.10g}" if inside else f"{name} {value:.10g}")
    return lines


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
