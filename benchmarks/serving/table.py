"""The figures of a server for the pages: figures in, Markdown rows out."""

from __future__ import annotations

from typing import Any

Rows = list[tuple[str, ...]]


def serving_tables(figures: dict[str, Any]) -> list[Rows]:
    """One table by clients, and one of what is held against an aim; of the parts that were measured."""
    found = [_throughput(figures["throughput"], figures.get("calls", {}))] if "throughput" in figures else []
    held = [row(figures[part]) for part, row in _HELD.items() if part in figures]
    held += [_soak(how_long, found) for how_long, found in figures.get("soak", {}).items()]
    return [*found, [("figure", "aimed at", "found"), *held]] if held else found


def _throughput(found: dict[str, Any], calls: dict[str, Any]) -> Rows:
    """Three rows for each bundle and engine; the last tells what a call of 8 rows itself gains over calls of 2."""
    counts = list(dict.fromkeys(count for one in found.values() for count in one["shared over alone"]))
    rows: Rows = [("pictures a second, by clients", *counts)]
    for label, one in found.items():
        for name, words in (("shared", "calls of 8 rows"), ("alone", "calls of 2 rows")):
            rates = one["pictures a second"][name]
            rows.append((f"{label}: {words}", *(_told(rates.get(count)) for count in counts)))
        gain = f"; a call's own: {calls[label]['gain']['8']:.2f}" if label in calls else ""
        rows.append((f"one over the other{gain}", *(_told(one["shared over alone"].get(count)) for count in counts)))
    return rows


def _told(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _short(found: dict[str, Any]) -> tuple[str, ...]:
    slower, steps = found["p99 among over p99 alone"], found["full step over own step"]
    words = f"{found['one over the other']:.2f} ({slower:.2f} by {steps:.2f})"
    return ("p99 of 4 steps among requests of 50, over alone, by a full step over its own", "at most 1.2", words)


def _overhead(found: dict[str, Any]) -> tuple[str, ...]:
    return ("a step by HTTP beside the bare loop, ms", "at most 1", f"{found['more by HTTP, ms']:.2f}")


def _overload(found: dict[str, Any]) -> tuple[str, ...]:
    refused, taken = found["refused"]["p99, s"], found["taken in"]["p99, s"]
    words = f"{1e3 * refused:.0f} ms refused, {taken:.2f} s taken in, {found['lost']} lost"
    return (f"{found['clients']} clients, four times the room: p99", "refused within 50 ms, none lost", words)


def _sigterm(found: dict[str, Any]) -> tuple[str, ...]:
    finished, seconds = f"{found['finished']} of {found['in flight']} finished", found["s to exit"]
    statuses = ", ".join(f"{status} ({count})" for status, count in found["exit statuses"].items())
    later = ", ".join(f"{status} ({count})" for status, count in found["asked after it"].items()) or "none came"
    words = (
        f"{finished}; exit {statuses} after {seconds['median']:.1f} s, at most {seconds['most']:.1f}; later: {later}"
    )
    return (f"SIGTERM with 8 requests in flight, {found['runs']} times", "all finished, exit 0, later ones 503", words)


def _disconnect(found: dict[str, Any]) -> tuple[str, ...]:
    steps = ", ".join(f"{steps} ({count})" for steps, count in found["steps until its rows are free"].items())
    return (f"{found['clients']} clients that go away: steps until their rows are free", "at most 1", steps)


def _soak(how_long: str, found: dict[str, Any]) -> tuple[str, ...]:
    memory, left = found["memory"], int(sum(found["left in the server"].values()))
    low, high = memory["95 %"]
    slope = f"{memory['MB a minute']:+.3f} MB a minute ({low:+.3f} to {high:+.3f})"
    words = f"{found['lost']} lost of {found['asked']}, {found['unexpected']} answered otherwise, {left} left; {slope}"
    return (f"soak of {how_long}", "none lost, none left, memory level", words)


def _replicas(found: dict[str, Any]) -> tuple[str, ...]:
    total = sum(found["answers"].values())
    words = (
        f"{found['failed']} of {total} requests failed in {found['deaths']} deaths; the new one's first picture after "
        f"{found['first picture of the new one, s']:.1f} s, two healthy after {found['two healthy, s']:.1f} s"
    )
    return ("one of two Ray replicas killed with -9 under load", "stated", words)


_HELD = {
    "short": _short,
    "overhead": _overhead,
    "overload": _overload,
    "sigterm": _sigterm,
    "disconnect": _disconnect,
    "replicas": _replicas,
}
