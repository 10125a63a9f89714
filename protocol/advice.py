"""What to set so that a link carries a run, and the one sentence that says so. Pure functions.

The rules, and what they rest on:
- H as small as the link allows, and never below 30, the smallest of arXiv 2501.18512: its loss is
  lower there than at 100 (tables 5 and 6). Above 1000 a recommendation says so: that is the
  largest of arXiv 2311.08105 for which a figure is at hand, 2.9 % more perplexity than at 50.
- P the fewest fragments whose outer steps come at most 10 steps late (2501.18512, the ablation of
  tau: less than 0.2 % up to 10). More of them cost round trips and, where they are unequal, time.
- tau, for lockstep, as short as the exchange allows: the paper says at most 5 where the link does.
- E3M0, 4 bits a value: no loss of quality in the paper, and a quarter of bf16's bytes.
- round_deadline_s at least twice the longest exchange, which is what a roster plans with.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from protocol.fragments import Fragment
from protocol.plan import (
    TRIPS_TO_END,
    TRIPS_TO_START,
    Outlook,
    Setting,
    Swarm,
    needed_bytes_per_s,
    outlook,
)

CODEC = "e3m0"
LEAST_SYNC_EVERY = 30
MOST_SYNC_EVERY = 1000
MAX_SYNC_EVERY = 50_000
MAX_LATE_STEPS = 10
WORTH = 1.1
"""So much longer may H be for outer steps that come less late."""

_UNITS = (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3))

Cut = Callable[[int], "tuple[Fragment, ...] | None"]
"""The model in so many fragments; None where it cannot be cut so."""


def recommend(
    setting: Setting, swarm: Swarm, *, cut: Cut, counts: Iterable[int], target: float
) -> Setting | None:
    """What to set instead.

    Args:
        counts: the numbers of fragments to choose from.

    Returns:
        None if the target is not reached at any H that is worth saying.
    """
    found = []
    setting = replace(setting, codec=CODEC)
    for count in counts:
        fragments = cut(count)
        if fragments is None:
            continue
        gap_steps = _least_gap_steps(replace(setting, fragments=fragments), swarm, target)
        if gap_steps is not None:
            found.append(_with_gap(replace(setting, fragments=fragments), swarm, gap_steps))
    if not found:
        return None
    most = WORTH * min(each.sync_every for each in found)
    fitting = [each for each in found if each.sync_every <= most]
    on_time = [each for each in fitting if each.gap_steps <= MAX_LATE_STEPS]
    if on_time:
        return min(on_time, key=lambda each: each.num_fragments)
    return max(fitting, key=lambda each: each.num_fragments)


def _least_gap_steps(setting: Setting, swarm: Swarm, target: float) -> int | None:
    """The shortest way between two rounds that reaches the target and is not below the least H."""
    count = setting.num_fragments
    low, high = -(-LEAST_SYNC_EVERY // count), max(1, MAX_SYNC_EVERY // count)

    def is_enough(gap_steps: int) -> bool:
        return outlook(_with_gap(setting, swarm, gap_steps), swarm).reaches(target)

    if is_enough(low):
        return low
    if not is_enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _with_gap(setting: Setting, swarm: Swarm, gap_steps: int) -> Setting:
    """So many steps between two rounds, and the shortest delay in which the exchange fits."""
    exchange_s = outlook(replace(setting, lockstep=True), swarm).transfer_s
    trips_s = (TRIPS_TO_START + TRIPS_TO_END) * swarm.rtt_s if swarm.peers > 1 else 0.0
    delay_steps = math.ceil((exchange_s + trips_s) / swarm.step_s)
    return replace(
        setting,
        sync_every=gap_steps * setting.num_fragments,
        sync_delay_steps=min(delay_steps, gap_steps - 1),
        round_deadline_s=max(setting.round_deadline_s, float(math.ceil(2 * exchange_s))),
    )


def next_step(
    setting: Setting, swarm: Swarm, better: Setting | None, *, target: float
) -> str | None:
    """One sentence for a person whose link does not carry the run: what is so, and what to do.

    Args:
        better: what `recommend` says.

    Returns:
        None when the link carries it.
    """
    seen = outlook(setting, swarm)
    if seen.reaches(target):
        return None
    return f"{_what_is_so(setting, swarm, seen)}: {_what_to_do(setting, swarm, better, target)}"


def _what_is_so(setting: Setting, swarm: Swarm, seen: Outlook) -> str:
    if not seen.meets_deadline:
        return (
            f"a round takes {seen.transfer_s:,.0f} s on this link, which limits.round_deadline_s ="
            f" {setting.round_deadline_s:g} cuts off"
        )
    bound = "bound by round trips" if seen.limited_by == "round trips" else "link-bound"
    if setting.lockstep:
        return f"{bound}: peers train {seen.utilization:.0%} of the time and wait for the rest"
    return (
        f"{bound}: H is effectively {seen.sync_every_in_effect:,.0f} where sync_every ="
        f" {setting.sync_every}"
    )


def _what_to_do(setting: Setting, swarm: Swarm, better: Setting | None, target: float) -> str:
    ways = []
    needed = needed_bytes_per_s(setting, swarm, target)
    if needed is not None:
        ways.append(f"give {_flags(swarm, needed)} {least_rate_in_words(needed)}")
    if better is not None:
        ways.append(f"found the run with {_changes(setting, better)}")
    return ", or ".join(ways) or "train a smaller model, or with peers that are closer"


def _changes(setting: Setting, better: Setting) -> str:
    """The keys of the manifest that differ, as they are written there."""
    values = (
        ("sync_every", setting.sync_every, better.sync_every),
        ("num_fragments", setting.num_fragments, better.num_fragments),
        ("codec", f'"{setting.codec}"', f'"{better.codec}"'),
        ("round_deadline_s", f"{setting.round_deadline_s:g}", f"{better.round_deadline_s:g}"),
    )
    changed = [f"{key} = {new}" for key, old, new in values if new != old]
    if better.sync_every > MOST_SYNC_EVERY:
        changed.append(f"which is farther than DiLoCo was measured (H = {MOST_SYNC_EVERY})")
    return ", ".join(changed)


def _flags(swarm: Swarm, needed_bytes_per_s: float) -> str:
    """Those of the caps that are too low."""
    up = swarm.up_bytes_per_s < needed_bytes_per_s
    down = swarm.down_bytes_per_s < needed_bytes_per_s
    return "--up and --down" if up and down else "--up" if up else "--down"


def rate_in_words(bytes_per_s: float) -> str:
    """To three digits, as it is typed: 20mbit."""
    bits = bytes_per_s * 8
    unit, size = next((u, s) for u, s in _UNITS if bits >= s or s == _UNITS[-1][1])
    return f"{float(f'{bits / size:.3g}'):g}{unit}"


def least_rate_in_words(bytes_per_s: float) -> str:
    """Rounded up to two digits: whoever types it has enough."""
    step = 10 ** (math.floor(math.log10(bytes_per_s * 8)) - 1)
    return rate_in_words(math.ceil(bytes_per_s * 8 / step) * step / 8)
