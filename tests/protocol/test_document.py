"""docs/protocol.md shows excerpts of the test vectors; the two must not drift apart."""

import json
import re
from pathlib import Path

import pytest

from tests.protocol.vectors import VECTORS

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
EXCERPTS = [
    (section, shown)
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    for section, rows in json.loads(block).items()
    for shown in rows
    if section in VECTORS
]


@pytest.mark.parametrize(("section", "shown"), EXCERPTS)
def test_what_the_document_shows_is_in_the_vectors(section, shown):
    assert any(row | shown == row for row in VECTORS[section])


def test_the_document_shows_every_section_of_the_vectors():
    assert {section for section, _ in EXCERPTS} >= VECTORS.keys() - {"fp32", "learning_rate"}
