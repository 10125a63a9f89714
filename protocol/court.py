"""Who is accused of averaging falsely, what this peer has found out about it, and who is banned.

Everybody judges for itself, by doing the owner's work again; nobody's verdict counts for another.
Who is convicted here takes part in no round that this peer leads. An entry bans it for good: that
is proposed when a quorum of the voters says that it has convicted it too, and only those that have
accept it. So a ban in the log shows that a quorum has seen the proof.

Whoever does not say that it knows is told again, and can still judge: who convicted somebody keeps
the bytes that prove it.
"""

from collections.abc import Iterable, Mapping

from protocol.accepts import Signer
from protocol.audit import Accusation, is_forged
from protocol.claims import Claim
from protocol.errors import RemoteError
from protocol.events import Effect, Judge, Judged, KeepVerdict, Note, Send, Verdict
from protocol.log import Entry, Head
from protocol.messages import Accuse, Heartbeat
from protocol.terms import Terms

PENDING_OF_ONE = 4
"""Accusations of one accuser that are judged at a time: the first that is false convicts it."""
MAX_PENDING = 32
"""And of all, where an identity costs nothing; what is dropped is told again."""
MAX_CONVICTED = 256
MIN_VOTERS = 3
"""Of whom two have to agree."""
RETOLD_AFTER_S = 5.0


def may_ban(term: int, head: Head) -> bool:
    """Whether the entry of this term after `head` may ban anybody.

    Of two voters the tie-breaker is a quorum by itself, and of one that one is: a liar that has
    forced a term would ban whom it likes. A forced term is decided by one peer as well. The cost:
    in a group of two nobody is banned; who was convicted takes part in no round of who did that.
    """
    return term == head.term and len(head.voters) >= MIN_VOTERS


class Court:
    """One peer's."""

    def __init__(
        self, me: str, terms: Terms, signer: Signer, verdicts: Iterable[Verdict] = ()
    ) -> None:
        """`verdicts`: of an earlier life of this peer."""
        self.convicted = {verdict.guilty: verdict for verdict in verdicts}
        self._me = me
        self._terms = terms
        self._signer = signer
        self._pending: dict[str, Accusation] = {}
        self._told_at_s: dict[tuple[str, str], float] = {}
        """When whom was told of whom last."""

    def found_false(self, claim: Claim) -> list[Effect]:
        """An audit of this peer's own shows that a claim is false."""
        accusation = Accusation.of(claim, self._me, self._signer)
        return self._convict(claim.owner, accusation)

    def accused(self, sender: str, accusation: Accusation) -> list[Effect]:
        """Somebody tells of an accusation, be it its own.

        Raises:
            RemoteError: it is none of this run, or not signed by those that it names.
        """
        claim, accuser = accusation.claim, accusation.accuser
        if accusation.digest in self._pending or {claim.owner, accuser} & self.convicted.keys():
            return []
        of_run = claim.slot.run_id == self._terms.run_id
        if not of_run or claim.slot.part_index >= len(self._terms.parts_of(claim.slot.round)):
            raise RemoteError(sender, "an accusation of another run")
        if not accusation.is_signed(self._terms.tally.is_signed_by):
            raise RemoteError(sender, "an accusation that was not signed by those in it")
        of_one = sum(other.accuser == accuser for other in self._pending.values())
        if of_one >= PENDING_OF_ONE or len(self._pending) >= MAX_PENDING:
            return []
        if is_forged(claim, self._terms.tally.is_signed_by):
            return self._convict(claim.owner, accusation)
        self._pending[accusation.digest] = accusation
        return [Judge(accusation)]

    def judged(self, event: Judged) -> list[Effect]:
        """The work was done again, or cannot be: then it is judged when it is told again."""
        accusation = self._pending.pop(event.accusation, None)
        if accusation is None:
            return []
        claim = accusation.claim
        if event.is_true is None:
            who = f"{accusation.accuser[:8]} accuses {claim.owner[:8]}"
            return [Note(f"{who}, and nobody shows what went into that mean")]
        guilty = accusation.accuser if event.is_true else claim.owner
        return self._convict(guilty, accusation)

    def _convict(self, guilty: str, accusation: Accusation) -> list[Effect]:
        if guilty == self._me or guilty in self.convicted or len(self.convicted) >= MAX_CONVICTED:
            return []
        verdict = self.convicted[guilty] = Verdict(guilty, accusation)
        return [KeepVerdict(verdict)]

    # --- bans ------------------------------------------------------------------------------------

    def told_by(self, head: Head) -> tuple[str, ...]:
        """What this peer says of it to the others."""
        return tuple(sorted(peer for peer in self.convicted if not head.is_banned(peer)))

    def agrees(self, entry: Entry, head: Head) -> bool:
        """Whether everybody whom an entry bans was proven to this peer to lie, or is banned."""
        return {peer for peer, _ in entry.banned} <= {*dict(head.banned), *self.convicted}

    def to_ban(self, head: Head, heartbeats: Mapping[str, Heartbeat]) -> dict[str, str]:
        """Peers that a quorum of the voters has convicted, and the digest of this peer's proof."""
        banned = {}
        for guilty in self.told_by(head) if may_ban(head.term, head) else ():
            agreeing = {p for p, beat in heartbeats.items() if guilty in beat.convicts}
            if self._terms.tally.is_quorum({self._me, *agreeing}, head):
                banned[guilty] = self.convicted[guilty].accusation.digest
        return banned

    def to_tell(
        self, head: Head, others: Iterable[str], heartbeats: Mapping[str, Heartbeat], now_s: float
    ) -> list[Send]:
        """Accusations for those that do not say yet that they know."""
        sends = []
        for guilty in self.told_by(head):
            accusation = self.convicted[guilty].accusation
            accuse = Accuse(round=accusation.claim.slot.round, accusation=accusation)
            for peer in others:
                beat = heartbeats.get(peer)
                told_at_s = self._told_at_s.get((peer, guilty), float("-inf"))
                knows = peer == guilty or (beat is not None and guilty in beat.convicts)
                if not knows and now_s - told_at_s >= RETOLD_AFTER_S:
                    self._told_at_s[peer, guilty] = now_s
                    sends.append(Send(peer, accuse))
        return sends
