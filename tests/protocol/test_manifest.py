"""The manifest: docs/protocol.md, "Manifest and run_id"."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import canonical, digest
from protocol.errors import ManifestError
from protocol.fragments import TensorSpec
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest
from tests.protocol.vectors import cases

DEFAULT = Manifest()


def changed(path: str, value: object) -> bytes:
    """The canonical bytes of the default manifest with one value replaced or added."""
    raw = json.loads(DEFAULT.to_bytes())
    *sections, key = path.split(".")
    section = raw
    for name in sections:
        section = section[name]
    section[key] = value
    return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()


@cases("manifest")
def test_the_vectors_hold(case):
    """The default one fails whenever a key is added, renamed or given another default.

    Then nobody with the new program can join a run that the old one founded. If that is meant,
    write the new canonical bytes and run_id into vectors.json.
    """
    manifest = Manifest.from_toml(case["toml"])
    assert manifest.to_bytes().decode() == case["canonical"]
    assert manifest.run_id == case["run_id"]


def test_toml_and_canonical_bytes_are_two_spellings_of_one_manifest():
    text = """
    name = "exact"
    mode = "lockstep"
    start_peers = 3
    [sync]
    sync_every = 10
    num_fragments = 3
    sync_delay_steps = 2
    codec = "fp32"
    """
    manifest = Manifest.from_toml(text)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert manifest.sync.sync_every == tomllib.loads(text)["sync"]["sync_every"]
    assert manifest.codec.name == "fp32"
    assert manifest.schedule.gap_steps == 3


@given(
    seed=st.integers(0, 2**63 - 1),
    learning_rate=st.floats(1e-30, 1e30),
    corpus=st.text(min_size=1, max_size=20),
    sync_every=st.integers(1, 50),
    data=st.data(),
)
def test_every_manifest_reads_back_from_its_bytes(seed, learning_rate, corpus, sync_every, data):
    num_fragments = data.draw(st.integers(1, sync_every))
    delay = data.draw(st.integers(0, sync_every // num_fragments - 1))
    manifest = Manifest.model_validate(
        {
            "seed": seed,
            "data": {"corpus": corpus},
            "inner_optimizer": {"learning_rate": learning_rate},
            "sync": {
                "sync_every": sync_every,
                "num_fragments": num_fragments,
                "sync_delay_steps": delay,
            },
        }
    )
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    assert again.run_id == manifest.run_id == digest(manifest.to_bytes())


@pytest.mark.parametrize("path", ["seed", "sync.sync_every", "evaluation.batches"])
def test_another_value_anywhere_is_another_run(path):
    raw = json.loads(DEFAULT.to_bytes())
    *sections, key = path.split(".")
    value = raw[sections[0]][key] if sections else raw[key]
    assert Manifest.from_bytes(changed(path, value + 1)).run_id != DEFAULT.run_id


BAD_VALUES = [
    ("name", "-starts-with-a-dash"),
    ("name", "two\nlines"),
    ("seed", -1),
    ("seed", 2**63),
    ("start_peers", 0),
    ("start_peers", 65),  # more than limits.max_peers
    ("mode", "async"),
    ("total_steps", 2000.0),
    ("total_steps", 2**31),
    ("total_steps", 99),  # less than sync.sync_every
    ("model.depth", 0),
    ("model.depth", True),
    ("model.qk_norm", "yes"),
    ("model.width", 100),  # no multiple of head_width
    ("model.head_width", 3),
    ("tokenizer.kind", "words"),
    ("data.corpus", ""),
    ("data.heldout_percent", 50.0),
    ("data.heldout_digest", "abc"),
    ("inner_optimizer.learning_rate", 0.0),
    ("inner_optimizer.learning_rate", "0.003"),
    ("inner_optimizer.learning_rate", True),
    ("inner_optimizer.beta1", 1.0),
    ("inner_optimizer.weight_decay", float("inf")),
    ("inner_optimizer.weight_decay", float("nan")),
    ("outer_optimizer.momentum", 1.0),
    ("sync.num_fragments", 101),  # more than sync_every
    ("sync.sync_delay_steps", 25),  # the gap is 25 steps: tau is at most 24
    ("sync.sync_delay_steps", -1),
    ("sync.merge_alpha", 1.5),
    ("sync.codec", "int4"),
    ("sync.part_values", 0),
    ("limits.suspect_after_s", 1.0),
    ("limits.suspect_after_s", float("inf")),
    ("evaluation.batches", 0),
]


@pytest.mark.parametrize(("path", "value"), BAD_VALUES)
def test_a_bad_value_gives_one_line_that_names_its_key(path, value):
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(changed(path, value))
    message = str(caught.value)
    assert "\n" not in message
    # A rule about several keys of one section names the section and the key in its sentence.
    assert path in message or all(word in message for word in path.split("."))


@pytest.mark.parametrize("path", ["sync_evry", "sync.sync_evry", "model.layers", "name.first"])
def test_an_unknown_key_is_named(path):
    section, _, key = path.rpartition(".")
    text = f"[{section}]\n{key} = 3\n" if section else f"{key} = 3\n"
    with pytest.raises(
        ManifestError, match=section if section == "name" else f"unknown key '{path}'"
    ):
        Manifest.from_toml(text)


def test_the_largest_delay_is_one_step_less_than_the_gap():
    manifest = Manifest.from_bytes(changed("sync.sync_delay_steps", 24))
    assert manifest.schedule.gap_steps == 25


@pytest.mark.parametrize(
    "text",
    [
        "name =",
        "= 3",
        "[sync",
        'name = "a"\nname = "b"',
        "a = " + "[" * 5000,
        "seed = " + "9" * 5000,
    ],
    ids=["no value", "no key", "open bracket", "key twice", "too deep", "too many digits"],
)
def test_what_is_no_toml_is_refused_in_one_line(text):
    with pytest.raises(ManifestError, match="not valid TOML") as caught:
        Manifest.from_toml(text)
    assert "\n" not in str(caught.value)


CANONICAL = DEFAULT.to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b" " + CANONICAL,
        CANONICAL + b"\n",
        CANONICAL.replace(b":", b": ", 1),
        CANONICAL.replace(b'"weight_decay":0.1', b'"weight_decay":0.10'),
        CANONICAL.replace(b'"learning_rate":0.003', b'"learning_rate":3e-3'),
        CANONICAL.replace(b'"gradient_clip":1.0', b'"gradient_clip":1'),
        CANONICAL.replace(b'"seed":1,', b'"seed":1,"seed":1,'),
        CANONICAL.replace(b'"seed":1,', b""),
        CANONICAL.decode().encode("utf-16"),
        b"{}",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_bytes_that_are_not_canonical_are_refused(data):
    assert data != CANONICAL
    with pytest.raises(ManifestError, match="canonical form"):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"a":' * 800 + b"1" + b"}" * 800,
        b'{"seed":' + b"9" * 5000 + b"}",
        b'{"data":{"corpus":"\\ud800"}}',
        b'{"inner_optimizer":{"learning_rate":1' + b"0" * 400 + b"}}",
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_garbage_from_a_peer_is_refused_in_one_line(data):
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(data)
    assert "\n" not in str(caught.value)


@given(data=st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data):
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


def test_it_cuts_the_model_as_it_says():
    tensors = [TensorSpec("embedding", 512, None, "embedding")]
    tensors += [TensorSpec(f"blocks.{i}", 1000, i) for i in range(4)]
    tensors += [TensorSpec("head", 512, None, "head")]
    fragments = DEFAULT.fragments(tensors)
    assert [len(f.tensors) for f in fragments] == [1, 2, 2, 1]
    assert all(len(f.part_bounds) >= 4 for f in fragments)


def test_the_learning_rate_peaks_when_the_warm_up_is_over():
    inner = DEFAULT.inner_optimizer
    rates = [DEFAULT.inner_learning_rate(position) for position in range(DEFAULT.total_steps)]
    assert max(rates) == rates[inner.warmup_steps] == inner.learning_rate
    assert rates[0] == pytest.approx(inner.learning_rate / 51)
    assert rates[-1] == pytest.approx(inner.learning_rate * 0.1, rel=1e-3)


def test_canonical_bytes_have_sorted_keys_and_ascii_only():
    assert canonical({"b": 1.0, "a": ["ü", None, True]}) == b'{"a":["\\u00fc",null,true],"b":1.0}'


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_has_no_canonical_bytes(bad):
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": bad})
