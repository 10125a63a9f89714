"""I7: every token is contributed, pending or lost, and log and accounts agree."""

from collections import defaultdict

from protocol.ledger import Ledger
from tests.sim.checks.chains import Chains, Report
from tests.sim.plan import Plan
from tests.sim.saw import How

Gap = tuple[int, ...]
"""For each fragment the tokens x values that the log has credited and the accounts do not know."""


class Books:
    """Compares each peer's accounts with what its chain has credited.

    They may differ by what an earlier life was credited with that has lost its accounts, by what a
    snapshot has skipped, and by what a rewind gives up and the log no longer keeps. That gap arises
    in such a moment, and at no other time.
    """

    def __init__(self, plan: Plan, chains: Chains, report: Report) -> None:
        self._plan = plan
        self._chains = chains
        self._report = report
        self._gaps: defaultdict[str, set[Gap]] = defaultdict(set)
        """All that each peer ever had: a restart can lead back to one of a checkpoint."""
        self._gap: dict[str, Gap] = {}
        self._credit: dict[tuple[str, str], Gap] = {}
        """Tokens x values by peer and entry, from genesis on."""

    def check(self, peer_id: str, how: How, head: str, ledger: Ledger, has_books: bool) -> None:
        """A peer stands at `head` with these accounts.

        Args:
            has_books: its accounts go on from those before.
        """
        if not ledger.is_balanced():
            self._report(f"I7: the accounts of {peer_id} do not add up")
        credited = self._credited(peer_id, head)
        gap = tuple(c - a.contributed for c, a in zip(credited, ledger.accounts, strict=True))
        begins_anew = not has_books and peer_id in self._gap
        if how == "snapshot" or begins_anew or (how == "started" and gap in self._gaps[peer_id]):
            self._gap[peer_id] = gap
        elif gap != self._gap.setdefault(peer_id, (0,) * len(gap)):
            self._report(f"I7: the log has credited {peer_id} with {gap} more than its accounts")
        self._gaps[peer_id].add(gap)

    def _credited(self, peer_id: str, head: str) -> Gap:
        known = self._credit.get((peer_id, head))
        if known is not None:
            return known
        entry = self._chains.entries.get(head)
        if entry is None:
            return (0,) * len(self._plan.part_values)
        credited = list(self._credited(peer_id, entry.parent))
        if peer_id in entry.members:
            place = entry.members.index(peer_id)
            values = self._plan.part_values[entry.fragment_id]
            credited[entry.fragment_id] += sum(
                part.tokens[place] * count
                for part, count in zip(entry.parts, values, strict=True)
                if part is not None
            )
        self._credit[peer_id, head] = tuple(credited)
        return tuple(credited)
