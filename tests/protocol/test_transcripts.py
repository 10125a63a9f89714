"""Golden transcripts: what a group says and does under each policy, word for word.

`pytest --rewrite tests/protocol/test_transcripts.py` writes them anew. Only commit the changes if
you understand what caused them and want them.
"""

from pathlib import Path

import pytest

from tests.protocol import policies
from tests.protocol.policies import POLICIES

FOLDER = Path(__file__).parent / "transcripts"


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_the_policy_plays_out_as_written(policy, request):
    stage = policy()
    text = f"{policy.__doc__}\n\n{stage.text()}"
    path = FOLDER / f"{policy.__name__}.txt"
    if request.config.getoption("--rewrite"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert not stage.invariants.violations


def test_every_transcript_has_a_policy():
    assert {path.stem for path in FOLDER.glob("*.txt")} == {p.__name__ for p in POLICIES}


def test_duplicates_end_where_single_messages_end():
    def states(stage):
        return {m: p.replica.state_digest() for m, p in stage.swarm.peers.items()}

    assert states(policies.duplicates_change_nothing()) == states(policies.everybody_is_ready())
