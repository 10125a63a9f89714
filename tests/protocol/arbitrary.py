"""Hypothesis strategies that more than one test module draws from."""

from hypothesis import strategies as st

from protocol.log import Entry, Part

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, 2**40)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Anything that has the form of an entry, whether it makes sense or not."""
    members = draw(st.lists(texts, max_size=4))
    tokens = st.lists(counts, min_size=len(members), max_size=len(members)).map(tuple)
    voters = draw(st.lists(st.tuples(texts, texts), max_size=4))
    return Entry(
        round=draw(st.integers(-1, 2**31 - 1)),
        term=draw(counts),
        fragment_id=draw(counts),
        parent=draw(texts),
        planned_steps=draw(counts),
        members=tuple(members),
        voters=tuple(voter for voter, _ in voters),
        incarnations=tuple(incarnation for _, incarnation in voters),
        tie_breaker=draw(texts),
        parts=tuple(draw(st.lists(st.none() | st.builds(Part, texts, tokens), max_size=4))),
        committed=draw(st.integers(0, 2**120 - 1)),
        missing=tuple(draw(st.lists(st.tuples(texts, texts), max_size=3))),
        banned=tuple(draw(st.lists(st.tuples(texts, texts), max_size=3))),
        reason=draw(texts),
    )
