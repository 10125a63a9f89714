"""One copy of the model: the state that all peers share, and the parameters this one trains.

Shared, bit for bit (I1): global_params and momentum of every fragment, flat fp32 on the CPU.
Private: local_params, which live in the model on its device, and what is pending for each fragment.

An outer step is in force at once (`advance`). The model follows at the next boundary (`fold_in`);
until then what follows is computed where local_params are read, so that nobody waits for the end of
a long inner step, and local_params always belong to the global_params in force.

Threads: methods marked (trainer) change the model and run between two inner steps; those marked
(unchanged) read it, and no parameter changes meanwhile (`peer.trainer`). The others are plain CPU
arithmetic for a worker thread. `peer.rounds` never lets two of them meet on the same fragment,
because a fragment is in at most one round at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from peer.model import GPT, build_model, tensor_specs
from protocol import outer
from protocol.codec import Values
from protocol.digest import digest
from protocol.errors import CodecError
from protocol.log import Entry
from protocol.manifest import Manifest
from protocol.robust import decode_contribution, decode_mean
from protocol.state import chunk_digests, root_of

State: TypeAlias = tuple[Values, Values]
"""global_params and momentum of one fragment, flat fp32."""


@dataclass(frozen=True, slots=True)
class OuterStep:
    """One decided entry, computed and ready to be put in force."""

    fragment_id: int
    old_global: Values
    new_global: Values
    new_momentum: Values
    contributed: tuple[bool, ...]
    """Per part: merge where True, rebase elsewhere."""


class Replica:
    """Parameters, and the only code that reads or writes them outside the inner optimizer."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        """Raises ManifestError when the fragments do not fit the model."""
        self._manifest = manifest
        self.model: GPT = build_model(manifest)
        self.fragments = manifest.fragments(tensor_specs(self.model))
        parameters = dict(self.model.named_parameters())
        self._tensors = [
            [parameters[spec.name] for spec in fragment.tensors] for fragment in self.fragments
        ]
        self._unfolded: list[list[OuterStep]] = [[] for _ in self.fragments]
        """In force, and not yet in the model's parameters; the oldest first."""
        self.global_params: list[Values] = [
            self.local_params(fragment_id) for fragment_id in range(len(self.fragments))
        ]
        self.momentum: list[Values] = [np.zeros_like(flat) for flat in self.global_params]
        self.model.to(device)

    @property
    def part_values(self) -> list[tuple[int, ...]]:
        """For each fragment the number of values in each of its parts."""
        return [
            tuple(stop - start for start, stop in fragment.part_bounds)
            for fragment in self.fragments
        ]

    @property
    def parameter_count(self) -> int:
        return sum(fragment.values for fragment in self.fragments)

    def state_digest(self) -> str:
        """Of all global_params and momentum."""
        return digest("".join(self.fragment_digest(f.fragment_id) for f in self.fragments).encode())

    def fragment_digest(self, fragment_id: int) -> str:
        """The root of one fragment's state (protocol/state.py)."""
        return root_of(chunk_digests(self.global_params[fragment_id], self.momentum[fragment_id]))

    # --- the shared state as a whole -------------------------------------------------------------

    @property
    def states(self) -> list[State]:
        """global_params and momentum of every fragment; replaced when they change."""
        return list(zip(self.global_params, self.momentum, strict=True))

    def apply(self, state: State, entry: Entry, parts: Sequence[bytes | None]) -> State:
        """What an entry makes of its fragment's state; nothing here changes."""
        return self._step(state, entry.fragment_id, self._movements(entry, parts))

    def _step(self, state: State, fragment_id: int, movements: Sequence[Values | None]) -> State:
        outer_optimizer = self._manifest.outer_optimizer
        return outer.apply_parts(
            *state,
            movements,
            self.fragments[fragment_id].part_bounds,
            learning_rate=outer_optimizer.learning_rate,
            momentum_decay=outer_optimizer.momentum,
        )

    def _movements(self, entry: Entry, parts: Sequence[bytes | None]) -> list[Values | None]:
        bounds = self.fragments[entry.fragment_id].part_bounds
        return [
            decode_mean(self._manifest.codec, data, stop - start)
            for (start, stop), data in zip(bounds, parts, strict=True)
        ]

    def begin_at(self, states: Sequence[State], local_params: Sequence[Values] | None) -> None:
        """Before training: this shared state, and local parameters, if there are any of before."""
        for fragment_id, (global_params, momentum) in enumerate(states):
            self.global_params[fragment_id] = global_params
            self.momentum[fragment_id] = momentum
            local = global_params if local_params is None else local_params[fragment_id]
            self._write_local(fragment_id, local)

    def adopt(self, states: Sequence[State]) -> None:
        """(trainer) Another shared state is in force: what was trained and not sent stays."""
        for fragment_id, (global_params, momentum) in enumerate(states):
            local = outer.rebase(
                self.local_params(fragment_id), self.global_params[fragment_id], global_params
            )
            self.global_params[fragment_id] = global_params
            self.momentum[fragment_id] = momentum
            self._write_local(fragment_id, local)

    def save_local(self) -> dict[str, Values]:
        """(unchanged) A copy of the local parameters, for a checkpoint."""
        return {f"local/{f.fragment_id}": self.local_params(f.fragment_id) for f in self.fragments}

    # --- a round ---------------------------------------------------------------------------------

    def local_params(self, fragment_id: int) -> Values:
        """(unchanged) The fragment's local parameters, a flat copy: fp32, on the CPU."""
        with torch.no_grad():
            flat = torch.cat([tensor.reshape(-1) for tensor in self._tensors[fragment_id]])
        values: Values = flat.to("cpu", torch.float32).numpy()
        for step in self._unfolded[fragment_id]:
            self._follow(values, step)
        return values

    def encode(self, fragment_id: int, local_params: Values) -> tuple[bytes, ...]:
        """The pseudo-gradient of these local parameters, encoded part by part.

        Raises:
            CodecError: the local parameters are not finite.
        """
        gradient = outer.pseudo_gradient(self.global_params[fragment_id], local_params)
        codec = self._manifest.codec
        return tuple(
            codec.encode(gradient[start:stop])
            for start, stop in self.fragments[fragment_id].part_bounds
        )

    def average(self, contributions: Sequence[bytes], tokens: Sequence[int], values: int) -> bytes:
        """The encoded average of one part's encoded contributions, in the order given.

        Raises:
            CodecError: a contribution is not usable.
        """
        decoded = [self._decode(data, values) for data in contributions]
        return self._manifest.codec.encode(self._manifest.aggregation.average(decoded, tokens))

    def is_usable(self, data: bytes, values: int) -> bool:
        """Whether these bytes are a canonical encoding of so many values that training can make."""
        try:
            self._decode(data, values)
        except CodecError:
            return False
        return True

    def _decode(self, data: bytes, values: int) -> Values:
        return decode_contribution(self._manifest.codec, data, values)

    def outer_step(
        self, entry: Entry, parts: Sequence[bytes | None], contributed: Sequence[bool]
    ) -> OuterStep:
        """Compute what an entry does to its fragment; nothing changes yet."""
        fragment_id = entry.fragment_id
        state = (self.global_params[fragment_id], self.momentum[fragment_id])
        movements = self._movements(entry, parts)
        new_global, new_momentum = self._step(state, fragment_id, movements)
        # What moved nothing keeps what this peer gave to it, too.
        merged = (
            has_given and movement is not None
            for has_given, movement in zip(contributed, movements, strict=True)
        )
        return OuterStep(fragment_id, state[0], new_global, new_momentum, tuple(merged))

    def advance(self, step: OuterStep) -> None:
        """(unchanged) Put an outer step in force; the model follows with `fold_in`."""
        self.global_params[step.fragment_id] = step.new_global
        self.momentum[step.fragment_id] = step.new_momentum
        unfolded = self._unfolded[step.fragment_id]
        if unfolded and not any(unfolded[-1].contributed) and not any(step.contributed):
            # A step may take longer than many rounds: two rebases are one.
            unfolded[-1] = replace(step, old_global=unfolded[-1].old_global)
        else:
            unfolded.append(step)

    @property
    def is_folded(self) -> bool:
        """Whether the model has followed everything that is in force."""
        return not any(self._unfolded)

    def fold_in(self) -> None:
        """(trainer) Let the model follow what is in force."""
        for fragment in self.fragments:
            if self._unfolded[fragment.fragment_id]:
                self._write_local(fragment.fragment_id, self.local_params(fragment.fragment_id))

    def _follow(self, local: Values, step: OuterStep) -> None:
        """What an outer step makes of local parameters, in place: merge or rebase, part by part."""
        bounds = self.fragments[step.fragment_id].part_bounds
        for (start, stop), contributed in zip(bounds, step.contributed, strict=True):
            if contributed:
                local[start:stop] = outer.merge(
                    local[start:stop], step.new_global[start:stop], self._manifest.sync.merge_alpha
                )
            else:
                local[start:stop] = outer.rebase(
                    local[start:stop], step.old_global[start:stop], step.new_global[start:stop]
                )

    def _write_local(self, fragment_id: int, flat: Values) -> None:
        offset = 0
        with torch.no_grad():
            for tensor in self._tensors[fragment_id]:
                values = torch.from_numpy(flat[offset : offset + tensor.numel()])
                tensor.copy_(values.view_as(tensor))
                offset += tensor.numel()
        self._unfolded[fragment_id].clear()

    # --- outside of rounds -----------------------------------------------------------------------

    def load_into(self, model: GPT, flats: Sequence[Values]) -> None:
        """Give another model of the same shape these flat fragments as its parameters."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, values in self.named(flats).items():
                parameters[name].copy_(torch.from_numpy(values))

    def named(self, flats: Sequence[Values]) -> dict[str, Values]:
        """Flat fragments as arrays by parameter name, in the parameters' shapes."""
        named = {}
        for fragment, tensors, flat in zip(self.fragments, self._tensors, flats, strict=True):
            offset = 0
            for spec, tensor in zip(fragment.tensors, tensors, strict=True):
                named[spec.name] = flat[offset : offset + spec.values].reshape(tuple(tensor.shape))
                offset += spec.values
        return named

    def save(self, path: Path) -> None:
        """Write global_params and momentum, by parameter name, as one safetensors file.

        Raises:
            OSError: it cannot be written; an older file is untouched.
        """
        tensors = {f"global_params/{n}": v for n, v in self.named(self.global_params).items()}
        tensors |= {f"momentum/{n}": v for n, v in self.named(self.momentum).items()}
        temporary = path.with_suffix(".partial")
        try:
            save_file(tensors, temporary, metadata={"run_id": self._manifest.run_id})
        except SafetensorError as error:
            raise OSError(str(error)) from error  # whatever else it could be, it is not the tensors
        temporary.replace(path)
