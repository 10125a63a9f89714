"""One replica group of torchft's Streaming DiLoCo, set up as its own train_diloco.py does it.

    python -m benchmarks.torchft_peer --manifest FILE --dir DIR --number 0 --address HOST \
        --lighthouse http://HOST:29510 --go FILE

Runs in the environment that `make torchft-venv` builds, on one CPU thread with gloo. Model,
fragments and inner optimizer are those of this project, as the manifest says; the text is noise.
Trains until it is ended. Its metrics.jsonl has a line for every commit that was voted on:

    commit    committed (all its votes were yes), number (commits before it), steps (inner ones)

It says "ready" once it is known to the lighthouse, and begins when the file --go is there.
"""

import argparse
import logging
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import TCPStore
from torchft import Manager, ProcessGroupGloo
from torchft.checkpointing.http_transport import HTTPTransport
from torchft.local_sgd import DiLoCo

from benchmarks.wan.torchft import fragments_of, manager_options, outer_optimizers_of
from peer.metrics import METRICS_FILE, Metrics
from peer.model import build_model, loss
from protocol.manifest import Manifest

# As in train_diloco.py.
GLOO_TIMEOUT = timedelta(seconds=10)
CHECKPOINT_TIMEOUT = timedelta(seconds=10)
MANAGER_TIMEOUT = timedelta(seconds=30)


class RecordingManager(Manager):
    """Writes down the time of every vote on a commit."""

    metrics: Metrics
    steps = 0

    def should_commit(self, timeout: timedelta | None = None) -> bool:
        number = self.current_step()
        committed = super().should_commit(timeout)
        self.metrics.write("commit", committed=committed, number=number, steps=self.steps)
        return committed


def train(arguments: argparse.Namespace) -> None:
    """Set everything up, wait for the others, and train."""
    manifest = Manifest.from_toml(arguments.manifest.read_text(encoding="utf-8"))
    inner, sync = manifest.inner_optimizer, manifest.sync
    model = build_model(manifest)
    fragments = fragments_of(manifest, model)
    inner_optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=inner.learning_rate,
        betas=(inner.beta1, inner.beta2),
        weight_decay=inner.weight_decay,
    )
    outer_optimizers = outer_optimizers_of(manifest, fragments)
    store = TCPStore(arguments.address, 0, is_master=True, wait_for_workers=False)
    manager = RecordingManager(
        pg=ProcessGroupGloo(timeout=GLOO_TIMEOUT),
        timeout=MANAGER_TIMEOUT,
        checkpoint_transport=HTTPTransport(timeout=CHECKPOINT_TIMEOUT, num_chunks=0),
        **manager_options(arguments.number, arguments.lighthouse, store, model, inner_optimizer),
    )
    manager.metrics = Metrics(arguments.dir / METRICS_FILE)
    batch = (manifest.data.batch_sequences, manifest.model.context + 1)
    generator = torch.Generator().manual_seed(arguments.number)
    with DiLoCo(
        manager,
        fragments,
        inner_optimizer,
        outer_optimizers,
        sync_every=sync.sync_every,
        backup_device=torch.device("cpu"),
        fragment_sync_delay=sync.sync_delay_steps,
        fragment_update_alpha=sync.merge_alpha,
    ):
        print("ready", flush=True)
        while not arguments.go.exists():
            time.sleep(0.02)
        while True:
            text = torch.randint(manifest.tokenizer.vocabulary, batch, generator=generator)
            inner_optimizer.zero_grad()
            loss(model, text[:, :-1], text[:, 1:]).backward()
            manager.steps += 1
            inner_optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("manifest", "dir", "go"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--address", required=True, help="of this host; its name too")
    parser.add_argument("--lighthouse", required=True)
    logging.basicConfig(level=logging.INFO, format="%(created).3f %(message)s")
    torch.set_num_threads(1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
