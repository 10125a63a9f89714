"""The two manifests of the comparison; the rivals read of them what they have."""

TRAFFIC = """
name = "wan-traffic"
start_peers = 4
total_steps = 10_000_000

[model]
depth = 8
width = 320
context = 256

[data]
batch_sequences = 8

[sync]
sync_every = 100
num_fragments = 4
edges = "spread"
sync_delay_steps = 5
merge_alpha = 0.5
codec = "e3m0"

[evaluation]
every_rounds = 1_000_000

[limits]
checkpoint_rounds = 64
"""
"""Of the rows on utilization and traffic: 10 M parameters. A checkpoint every 160 s instead of
every 20 s: the others write none, and four peers that write theirs on two cores are not what is
measured."""

LOSS_STEPS = 800
LOSS = f"""
name = "wan-loss"
seed = {{seed}}
start_peers = 4
total_steps = {LOSS_STEPS}

[model]
depth = 4
width = 192
context = 64

[data]
batch_sequences = 1

[inner_optimizer]
learning_rate = 3e-3
warmup_steps = 30

[outer_optimizer]
learning_rate = 0.8
momentum = 0.8

[sync]
sync_every = 20
num_fragments = 2
edges = "spread"
sync_delay_steps = 4
merge_alpha = 0.25
codec = "e3m0"

[evaluation]
every_rounds = 1_000_000

[limits]
checkpoint_rounds = 64
"""
"""Of the rows on loss: 1.9 M parameters, with H = 20, so that the links have to carry as much for
each second of training as in the rows on traffic, within 10 %; 64 tokens a step, so that four
trainers leave half of two cores to the systems. H, momentum and the outer learning rate are the
demo's, the inner one and alpha from a search (docs/log.md, "An inner step takes as long")."""


def without_rounds(manifest: str) -> str:
    """The same, with the first averaging so far away that there is none."""
    return manifest.replace("sync_every = 100\n", "sync_every = 5_000_000\n")
