"""Writing a manifest that a person can read and change: every key, its default, and why."""

import json
from pathlib import Path

from peer.authority_folder import AuthorityFolder
from peer.data import Corpus
from protocol.errors import InputError
from protocol.manifest import Manifest

MANIFEST_FILE = "manifest.toml"

_TEMPLATE = """\
# One training run. Everything that its peers must agree on stands here and nowhere else; the run_id
# is the digest of it, so every edit makes another run. Unknown keys are refused.

name = "{name}"
seed = {seed}
start_peers = {start_peers}  # training begins when so many peers are there
mode = "elastic"             # "lockstep": the paper's fixed schedule, which blocks on the network
total_steps = 2000           # inner steps; num_fragments last rounds then drain the run

[model]  # a decoder-only GPT: RMSNorm, RoPE, SwiGLU
depth = 4                    # blocks; sets the size: 3 is about 1 M parameters, 8 25 M, 27 1 B
width = 0                    # 0: 64 x depth
head_width = 32
context = 256                # tokens in one training sequence
qk_norm = true
tied_embedding = false

[tokenizer]
kind = "bytes"               # one token per byte

[data]
corpus = {corpus}  # "python-stdlib", or the path of a text file or folder
batch_sequences = 8          # sequences in one inner step of one peer
heldout_percent = 2.0        # share of the files that nobody trains on
heldout_digest = "{heldout_digest}"

[inner_optimizer]  # AdamW; linear warm-up, then cosine
learning_rate = 3e-3
warmup_steps = 50
final_learning_rate_ratio = 0.1
beta1 = 0.9
beta2 = 0.95
epsilon = 1e-8
weight_decay = 0.1
gradient_clip = 1.0

[outer_optimizer]  # Nesterov on the averaged pseudo-gradients
learning_rate = 0.6          # 0.4 for one or two peers, 0.6 for four, 0.8 for eight
momentum = 0.9

[sync]  # Streaming DiLoCo
sync_every = 100             # H: inner steps between two rounds of one fragment
qsr_alpha = 0.0              # 0.03: H grows to floor((0.03 / learning rate)^2) as that one falls,
max_sync_every = 500         # but not beyond this
num_fragments = 4            # P: all of them, embedding and head included; 1 is plain DiLoCo
pattern = "strided"          # blocks 0, P, 2P, .. together; "sequential": neighbours together
edges = "own"                # embedding and head are fragments of their own; "spread": join others
sync_delay_steps = 5         # tau, lockstep only: steps between sending and applying
merge_alpha = 0.5            # weight of the LOCAL value when an outer step is folded in
codec = "e3m0"               # 4 bits a value; "bf16", "fp32"
part_values = 262144         # most values in one part, the unit of averaging

[aggregation]  # of what the peers send, part by part
rule = "mean"                # "centered_clip", "trimmed_mean", "median": bear a minority that lies
max_weight = 16.0            # most that one contribution weighs, in medians of the group's tokens
max_norm = 0.0               # largest norm that it keeps, in medians of the group's; 0: as it is
trim = 0.3                   # share of the contributors that may lie
mix = true                   # all but "mean" look at means of neighbours: liars pull less
audits = 0.0                 # parts that each member recomputes per round, to catch false averages

[commit]  # of an entry, by the votes of the peers in the one before
quorum = "majority"          # "two_thirds": more than that, for runs that strangers may join

[limits]
max_peers = 64
round_deadline_s = 120.0     # a round that takes longer is committed empty; its work goes on
grace_s = 5.0                # how long a round waits for live peers that are not ready
takeover_s = 3.0             # how long each further coordinator waits for the one before
suspect_after_s = 6.0        # a peer not heard from for so long counts as lost

[admission]
authority = "{authority}"  # who has this key invites people; "": anybody may join

[evaluation]  # of global_params on held-out text, by one peer in turn
every_rounds = 16
batches = 8
final_batches = 64
"""


def write_manifest(
    directory: Path,
    *,
    name: str,
    start_peers: int,
    corpus: str,
    is_open: bool,
    seed: int = 1,
) -> tuple[Path, Manifest]:
    """Write `manifest.toml` into a directory that has none, and the run's authority beside it.

    Raises:
        InputError: there is one already, the directory cannot be written, or an argument is wrong.
    """
    path = directory / MANIFEST_FILE
    if path.exists():
        raise InputError(f"{path} exists: edit it, or choose another directory")
    # A JSON string is a TOML string, whatever is in it.
    quoted = json.dumps(corpus)
    values = {"name": name, "start_peers": start_peers, "corpus": quoted, "seed": seed}
    draft = Manifest.from_toml(_TEMPLATE.format(heldout_digest="", authority="", **values))
    heldout_digest = Corpus.load(draft).heldout_digest
    authority = "" if is_open else AuthorityFolder.create(directory)
    text = _TEMPLATE.format(heldout_digest=heldout_digest, authority=authority, **values)
    manifest = Manifest.from_toml(text)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return path, manifest
