"""docs/security.md names a test for each defence; they are there, and the gaps are named, too."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]


def test_there_are_threats():
    assert [int(number) for number, *_ in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(ROWS) >= 40


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_a_defence_has_its_tests_and_a_gap_has_none(row: list[str]) -> None:
    _, _, defence, shown_by = row
    named = re.findall(r"`([^`]+)`", shown_by)
    assert bool(named) != defence.startswith("**open**")
    for name in named:
        path, _, test = name.partition("::")
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), name
        assert (ROOT / path).is_file()
