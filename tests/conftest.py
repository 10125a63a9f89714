"""Options of the test suite."""

import hypothesis
import pytest

# No test is about how long an example takes on a machine that also does other things.
hypothesis.settings.register_profile("diloco", deadline=None)
hypothesis.settings.load_profile("diloco")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="rewrite tests/protocol/transcripts; commit only what you understand and want",
    )
