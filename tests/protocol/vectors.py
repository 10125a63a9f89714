"""The test vectors of docs/protocol.md, one list of cases per section."""

import json
from pathlib import Path
from typing import Any

import pytest

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    Path(__file__).with_name("vectors.json").read_text(encoding="utf-8")
)


def cases(section: str) -> Any:
    """Parametrize a test over one section; the test takes a `case`."""
    rows = VECTORS[section]
    names = [row.get("name") or row.get("why") or str(index) for index, row in enumerate(rows)]
    return pytest.mark.parametrize("case", rows, ids=names)
