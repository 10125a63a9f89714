"""Rules of the house that a reader cannot check by eye: who imports whom, and what nobody calls."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("protocol", "peer", "cli")

# protocol/ computes: no clock, no chance, no files, no network, no threads.
NOT_IN_PROTOCOL = [
    "asyncio",
    "time",
    "random",
    "os",
    "socket",
    "threading",
    "subprocess",
    "pathlib",
    "multiprocessing",
    "secrets",
    "grpc",
    "hivemind",
    "peer",
    "cli",
]
NOT_IN_PEER = ["cli"]
PICKLES = ["pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"]


def files_of(room: str) -> list[Path]:
    paths = sorted((ROOT / room).rglob("*.py"))
    return [path for path in paths if "_pb2" not in path.name]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything that is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def called(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Calls with the name as written: `open`, `torch.load`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def forbidden_imports(tree: ast.AST, forbidden: list[str]) -> list[str]:
    return [
        f"line {line}: imports {name}"
        for line, name in imported(tree)
        if name.split(".")[0] in forbidden
    ]


def file_access(tree: ast.AST) -> list[str]:
    return [f"line {call.lineno}: opens a file" for call, name in called(tree) if name == "open"]


def pickles(tree: ast.AST) -> list[str]:
    findings = forbidden_imports(tree, PICKLES)
    for call, name in called(tree):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.save":
            findings.append(f"line {call.lineno}: torch.save pickles")
        if name == "torch.load" and options.get("weights_only") != "True":
            findings.append(f"line {call.lineno}: torch.load unpickles")
        if name in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False":
            findings.append(f"line {call.lineno}: {name} unpickles")
    return findings


def swallowed_errors(tree: ast.AST) -> list[str]:
    findings = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            everything = caught in ("Exception", "BaseException")
            silent = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
            if everything and silent:
                findings.append(f"line {node.lineno}: swallows every error")
    return findings


def environment(tree: ast.AST) -> list[str]:
    return [
        f"line {node.lineno}: reads the environment"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {alias.name for alias in node.names} & {"environ", "getenv"}
        )
    ]


def assert_clean(rooms, findings_of) -> None:
    findings = [
        f"{path.relative_to(ROOT)}, {finding}"
        for room in rooms
        for path in files_of(room)
        for finding in findings_of(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not findings, "\n".join(findings)


def test_there_are_files_to_check():
    assert all(files_of(room) for room in ROOMS)


def test_protocol_imports_no_clock_chance_file_or_network():
    assert_clean(["protocol"], lambda tree: forbidden_imports(tree, NOT_IN_PROTOCOL))


def test_protocol_opens_no_file():
    assert_clean(["protocol"], file_access)


def test_peer_never_imports_cli():
    assert_clean(["peer"], lambda tree: forbidden_imports(tree, NOT_IN_PEER))


def test_nobody_pickles():
    assert_clean(ROOMS, pickles)


def test_nobody_swallows_every_error():
    assert_clean(ROOMS, swallowed_errors)


def test_only_the_command_line_reads_the_environment():
    assert_clean(["protocol", "peer"], environment)


@pytest.mark.parametrize(
    ("findings_of", "source"),
    [
        (lambda tree: forbidden_imports(tree, NOT_IN_PROTOCOL), "def f():\n    import time"),
        (lambda tree: forbidden_imports(tree, NOT_IN_PROTOCOL), "from os.path import join"),
        (lambda tree: forbidden_imports(tree, NOT_IN_PEER), "from cli.main import main"),
        (file_access, "with open('x') as f: pass"),
        (pickles, "import pickle"),
        (pickles, "torch.load(path)"),
        (pickles, "torch.load(path, weights_only=False)"),
        (pickles, "np.load(path, allow_pickle=True)"),
        (swallowed_errors, "try: f()\nexcept Exception: pass"),
        (swallowed_errors, "try: f()\nexcept: pass"),
        (environment, "import os\nos.environ['A']"),
        (environment, "import os\nos.getenv('A')"),
        (environment, "from os import environ"),
    ],
)
def test_each_rule_finds_what_it_looks_for(findings_of, source):
    assert findings_of(ast.parse(source))


@pytest.mark.parametrize(
    ("findings_of", "source"),
    [
        (lambda tree: forbidden_imports(tree, NOT_IN_PROTOCOL), "from protocol.round import Round"),
        (pickles, "torch.load(path, weights_only=True)"),
        (swallowed_errors, "try: f()\nexcept OSError: pass"),
        (swallowed_errors, "try: f()\nexcept Exception as error: log(error)"),
    ],
)
def test_no_rule_finds_what_is_allowed(findings_of, source):
    assert not findings_of(ast.parse(source))
