"""The manifest: the immutable file that defines a run. `run_id` is the digest of its bytes.

People write TOML; peers exchange and digest the canonical bytes (protocol/digest.py). Everything
that all peers must agree on stands here, and nothing that is private to one of them.
"""

import json
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocol.codec import CODEC_NAMES, Codec, Values, codec_named
from protocol.digest import canonical, digest
from protocol.errors import ManifestError
from protocol.fragments import Edges, Fragment, Pattern, TensorSpec, cut_fragments
from protocol.log import QuorumRule
from protocol.robust import Rule, aggregate
from protocol.schedule import Growth, LearningRate, Schedule

MAX_MANIFEST_BYTES = 64 * 1024

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class _Section(BaseModel):
    # Strict: a quoted number, or a truth value where a number belongs, is a slip of the pen.
    # Infinity passes a bound like `ge=0`, and has no canonical bytes.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Model(_Section):
    """A decoder-only GPT: RMSNorm, RoPE, SwiGLU. One number, the depth, sets its size."""

    depth: Annotated[int, Field(ge=1, le=256)] = 4
    """Transformer blocks. With the default width, 3 makes about 1 M parameters, 8 about 25 M,
    16 about 200 M, 27 about 1 B."""
    width: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Values in the residual stream; 0 means 64 x depth."""
    head_width: Annotated[int, Field(ge=2, le=512)] = 32
    context: Annotated[int, Field(ge=8, le=1_048_576)] = 256
    """Tokens in one training sequence."""
    qk_norm: bool = True
    tied_embedding: bool = False

    @property
    def residual_width(self) -> int:
        return self.width or 64 * self.depth

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.residual_width % self.head_width or self.head_width % 2:
            raise ValueError(
                f"the width {self.residual_width} must be a multiple of head_width"
                f" {self.head_width}, which must be even"
            )
        return self


class Tokenizer(_Section):
    """How text becomes tokens. `bytes`: one token per byte, 256 of them."""

    kind: Literal["bytes"] = "bytes"

    @property
    def vocabulary(self) -> int:
        return 256


class Data(_Section):
    """Where the text comes from, and how much of it one inner step reads."""

    corpus: Annotated[str, Field(min_length=1, max_length=4096)] = "python-stdlib"
    """`python-stdlib`: the source files of the running interpreter's standard library. Anything
    else is the path of a text file or of a folder of them (`join --corpus` names it locally)."""
    batch_sequences: Count = 8
    heldout_percent: Annotated[float, Field(gt=0, lt=50)] = 2.0
    """Share of the files, by a hash of their relative path, that no peer trains on."""
    heldout_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Digest of the founder's held-out bytes; a peer whose corpus differs says so and leaves
    evaluation to the others. Empty: nobody compares."""


class InnerOptimizer(_Section):
    """Local AdamW and its learning rate: linear warm-up, then cosine over the schedule."""

    learning_rate: Positive = 3e-3
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)] = 50
    final_learning_rate_ratio: Fraction = 0.1
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    epsilon: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    gradient_clip: Positive = 1.0
    """Largest L2 norm of a local gradient."""


class OuterOptimizer(_Section):
    """Nesterov SGD on the averaged pseudo-gradients (reference values: 2501.18512, 2503.09799)."""

    learning_rate: Positive = 0.6
    momentum: Decay = 0.9


class Sync(_Section):
    """The Streaming DiLoCo schedule and what goes over the wire."""

    sync_every: Count = 100
    """H: inner steps between two rounds of one fragment; the least where it grows."""
    qsr_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Above 0, H grows as the learning rate falls, to floor((qsr_alpha / learning rate)^2): the
    Quadratic Synchronization Rule, arXiv 2310.14423. At 0.03 and a rate of 0.003, H is 100."""
    max_sync_every: Count = 500
    """The longest H that qsr_alpha leads to."""
    num_fragments: Count = 4
    """P: all fragments, those with the embedding and the head included; 1 is plain DiLoCo."""
    pattern: Pattern = "strided"
    edges: Edges = "own"
    """`own`: embedding and head are fragments of their own; `spread`: they join the smallest."""
    sync_delay_steps: Annotated[int, Field(ge=0, lt=2**31)] = 5
    """tau, lockstep mode only: steps between sending a fragment and applying it."""
    merge_alpha: Fraction = 0.5
    """alpha: weight of the LOCAL value when an outer step is folded in."""
    codec: Annotated[str, Field(pattern="^(" + "|".join(CODEC_NAMES) + ")$")] = "e3m0"
    part_values: Annotated[int, Field(ge=1, le=2**22)] = 2**18
    """Most values in one part."""


class Aggregation(_Section):
    """How one average is made of what the contributors to a part sent (protocol/robust.py)."""

    rule: Rule = "mean"
    """`mean`: of everybody, for peers that trust each other. The others bear a minority that lies:
    `trimmed_mean` and `median` value by value, `centered_clip` by distance."""
    max_weight: Annotated[float, Field(ge=1)] = 16.0
    """The most that one contribution weighs, in medians of the group's tokens. Honest peers differ
    by their pace; a liar claims what it likes."""
    max_norm: Annotated[float, Field(ge=0)] = 0.0
    """The largest norm that a contribution to a part keeps, in medians of the group's; 0: as it
    is. Honest ones can differ by more than any bound where a part holds rare tokens."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.3
    """Share of the contributors that may lie: so many are left out by `trimmed_mean` at either end,
    and by mixing."""
    mix: bool = True
    """Whether every rule but `mean` takes, in place of each contribution, the mean of those nearest
    to it. Liars up to `trim` then hardly pull any more, also under rules that would bear a few more
    without it."""
    audits: Annotated[float, Field(ge=0, le=64)] = 0.0
    """Parts that each member recomputes per round, on average, to catch owners that average
    falsely; and at most as many more that contradict what it gave. Each costs it a part from every
    contributor."""

    def average(self, parts: Sequence[Values], tokens: Sequence[int]) -> Values:
        """As `protocol.robust.aggregate`."""
        return aggregate(
            parts,
            tokens,
            rule=self.rule,
            max_weight=self.max_weight,
            max_norm=self.max_norm,
            trim=self.trim,
            mix=self.mix,
        )


class Commit(_Section):
    """What it takes to decide an entry (protocol/tally.py)."""

    quorum: QuorumRule = "majority"
    """`majority` of the voters, for peers that trust each other; of two voters, that of the
    tie-breaker. `two_thirds`: more than that, for runs that strangers may join: fewer than a third
    of the voters then decide nothing by voting twice. It takes more of them to be there."""


class Limits(_Section):
    """Bounds of a run. Each is a wait or a size that somebody would otherwise have to guess."""

    max_peers: Annotated[int, Field(ge=1, le=256)] = 64
    round_deadline_s: Positive = 120.0
    """A round that is not finished this long after its roster is committed empty."""
    grace_s: Positive = 5.0
    """How long a round waits for live peers that are not ready, once a quorum is."""
    takeover_s: Positive = 3.0
    """How long each further coordinator waits for the one before it."""
    suspect_after_s: Annotated[float, Field(ge=2)] = 6.0
    """A peer not heard from for this long counts as lost."""
    lonely_after_s: Positive = 60.0
    """Peers that were without a quorum for this long go on by themselves, in a new term."""
    checkpoint_rounds: Count = 8
    """Every peer writes a checkpoint after so many rounds, and newcomers begin at one of them."""


class Admission(_Section):
    """Who may take part."""

    authority: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Ed25519 public key of whoever invites people. Empty: an open run, which anybody may join."""


class Evaluation(_Section):
    """How often global_params are evaluated on held-out text while the run goes on."""

    every_rounds: Count = 16
    batches: Annotated[int, Field(ge=1, le=10_000)] = 8
    final_batches: Annotated[int, Field(ge=1, le=100_000)] = 64


class Manifest(_Section):
    """One training run, complete."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "my-run"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    start_peers: Annotated[int, Field(ge=1, le=256)] = 1
    """Training begins when this many peers are there; in lockstep mode it is the exact number."""
    mode: Literal["elastic", "lockstep"] = "elastic"
    total_steps: Count = 2000
    model: Model = Model()
    tokenizer: Tokenizer = Tokenizer()
    data: Data = Data()
    inner_optimizer: InnerOptimizer = InnerOptimizer()
    outer_optimizer: OuterOptimizer = OuterOptimizer()
    sync: Sync = Sync()
    aggregation: Aggregation = Aggregation()
    commit: Commit = Commit()
    limits: Limits = Limits()
    admission: Admission = Admission()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start_peers > self.limits.max_peers:
            raise ValueError(f"start_peers = {self.start_peers} is more than limits.max_peers")
        if self.sync.qsr_alpha and self.sync.max_sync_every < self.sync.sync_every:
            raise ValueError(
                f"sync.max_sync_every = {self.sync.max_sync_every} is less than sync.sync_every ="
                f" {self.sync.sync_every}"
            )
        _ = self.schedule
        return self

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read what a person wrote.

        Raises:
            ManifestError: not TOML, an unknown key, a value out of range, or an impossible plan.
        """
        try:
            return cls._build(tomllib.loads(text))
        except (ValueError, RecursionError) as error:  # also an integer of too many digits
            raise ManifestError(f"the manifest is not valid TOML: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read canonical bytes that another peer sent.

        Raises:
            ManifestError: too large, garbled, invalid, or not the canonical form.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"the manifest is garbled: {error}") from error
        manifest = cls._build(raw)
        if manifest.to_bytes() != data:
            raise ManifestError("the manifest is not in its canonical form")
        return manifest

    @classmethod
    def _build(cls, raw: Any) -> Self:
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise ManifestError(f"the manifest is wrong: {_in_words(error)}") from error

    def to_bytes(self) -> bytes:
        return canonical(self.model_dump(mode="json"))

    @property
    def run_id(self) -> str:
        return digest(self.to_bytes())

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            sync_every=self.sync.sync_every,
            num_fragments=self.sync.num_fragments,
            sync_delay_steps=self.sync.sync_delay_steps,
            total_steps=self.total_steps,
            growth=self._growth,
        )

    @property
    def _growth(self) -> Growth | None:
        if not self.sync.qsr_alpha:
            return None
        return Growth(
            alpha=self.sync.qsr_alpha,
            max_sync_every=self.sync.max_sync_every,
            learning_rate=self._learning_rate,
        )

    @property
    def _learning_rate(self) -> LearningRate:
        inner = self.inner_optimizer
        return LearningRate(
            peak=inner.learning_rate,
            warmup_steps=inner.warmup_steps,
            total_steps=self.total_steps,
            final_ratio=inner.final_learning_rate_ratio,
        )

    @property
    def codec(self) -> Codec:
        return codec_named(self.sync.codec)

    @property
    def tokens_per_step(self) -> int:
        return self.data.batch_sequences * self.model.context

    def fragments(self, tensors: list[TensorSpec]) -> tuple[Fragment, ...]:
        """Cut the model's parameters; raises ManifestError when they do not fit."""
        return cut_fragments(
            tensors,
            num_fragments=self.sync.num_fragments,
            pattern=self.sync.pattern,
            edges=self.sync.edges,
            part_values=self.sync.part_values,
            start_peers=self.start_peers,
        )

    def inner_learning_rate(self, position: int) -> float:
        """Learning rate at a position of the schedule (steps from 0)."""
        return self._learning_rate.at(position)


def _in_words(error: ValidationError) -> str:
    """One line of at most three findings, each with the key it is about."""
    findings = []
    for detail in error.errors()[:3]:
        key = ".".join(str(step) for step in detail["loc"])
        if detail["type"] == "extra_forbidden":
            findings.append(f"unknown key {key!r}")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            findings.append(f"{key}: {message}" if key else message)
    return "; ".join(findings)
