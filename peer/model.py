"""The model: a small decoder-only GPT with RMSNorm, RoPE and SwiGLU, and nothing that is a bias.

Shapes in comments: B sequences, T tokens, W = residual width, N heads of D = head_width values.

Every parameter is a matrix. The norms have no weights: a gain before a matrix can be learned by
the matrix, and a few hundred gains that move on a scale of their own would share one E3M0 scale
with matrices and be lost in it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protocol.digest import digest
from protocol.fragments import TensorSpec
from protocol.manifest import Manifest, Model

ROPE_BASE = 10_000.0
HIDDEN_MULTIPLE = 32


def rms_norm(values: Tensor) -> Tensor:
    """Scale the last dimension to a root mean square of 1 (arXiv 1910.07467, without its gain)."""
    return F.rms_norm(values, values.shape[-1:])


def rotary_tables(context: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and frequency, each (context, head_width / 2), fp32."""
    frequency = ROPE_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angle = torch.outer(torch.arange(context, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of values by its position's angle (RoPE, arXiv 2104.09864).

    Args:
        heads: queries or keys, (..., T, D). Value i is paired with value i + D/2.
        cosine, sine: (T, D / 2).
    """
    first, second = heads.chunk(2, dim=-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat(turned, dim=-1).to(heads.dtype)


class Attention(nn.Module):
    """Causal self-attention of all heads."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        width = model.residual_width
        self.head_width = model.head_width
        self.qk_norm = model.qk_norm
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, stream: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, tokens, width = stream.shape
        qkv = self.qkv(stream).view(batch, tokens, 3, -1, self.head_width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, N, T, D)
        if self.qk_norm:
            query, key = rms_norm(query), rms_norm(key)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv 2002.05202), as large as one of 4 x width without a gate."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        width = model.residual_width
        hidden = HIDDEN_MULTIPLE * math.ceil(8 * width / 3 / HIDDEN_MULTIPLE)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        gate, up = self.gate_up(stream).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """One transformer block: pre-norm attention, then pre-norm feed-forward."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.attention = Attention(model)
        self.feed_forward = SwiGLU(model)

    def forward(self, stream: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        stream = stream + self.attention(rms_norm(stream), cosine, sine)
        return stream + self.feed_forward(rms_norm(stream))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """The whole model. Use `build_model` for the initial values that a run starts from.

    Built under `torch.device("meta")` it takes no memory and still answers `tensor_specs`.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, model: Model, vocabulary: int) -> None:
        super().__init__()
        width = model.residual_width
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.depth))
        self.head = nn.Linear(width, vocabulary, bias=False)
        if model.tied_embedding:
            self.head.weight = self.embedding.weight
        cosine, sine = rotary_tables(model.context, model.head_width)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) of the token after each one of `tokens`.

        Args:
            tokens: int64 (B, T), T at most the context that the model was built for.
        """
        count = tokens.shape[1]
        cosine, sine = self.cosine[:count], self.sine[:count]
        stream = rms_norm(self.embedding(tokens))  # (B, T, W)
        for block in self.blocks:
            stream = block(stream, cosine, sine)
        return self.head(rms_norm(stream))  # type: ignore[no-any-return]


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats per token, a scalar, computed in fp32.

    Args:
        model: a GPT, or one that is compiled or wrapped for several GPUs.
        inputs, targets: int64 (B, T); the target of a token is the one after it.
    """
    logits: Tensor = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def build_model(manifest: Manifest) -> GPT:
    """The model with the initial values of this run: the same bits on every machine, on the CPU."""
    model = GPT(manifest.model, manifest.tokenizer.vocabulary)
    # torch takes 32 bits of a seed on the CPU; the digest lets all 63 of the manifest's count.
    seed = int(digest(f"model {manifest.seed}".encode())[:8], 16)
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, parameter in model.named_parameters():
        _fill_uniform(parameter, _initial_scale(name, parameter, manifest.model.depth), generator)
    return model


def _initial_scale(name: str, parameter: Tensor, depth: int) -> float:
    """Standard deviation of a parameter's initial values."""
    if name in ("embedding.weight", "head.weight"):
        return 0.02
    scale = 1 / math.sqrt(parameter.shape[1])
    # 2 x depth matrices add to the residual stream: its variance must not grow with depth.
    writes_to_stream = name.endswith(("out.weight", "down.weight"))
    return scale / math.sqrt(2 * depth) if writes_to_stream else scale


@torch.no_grad()
def _fill_uniform(parameter: Tensor, scale: float, generator: torch.Generator) -> None:
    """Uniform values with standard deviation `scale`.

    Not normal ones: torch's use another logarithm on another CPU. Here all operations but the
    last are exact, and that one is a single rounding.
    """
    uniform = torch.rand(parameter.shape, generator=generator)
    parameter.copy_(uniform.mul_(2).sub_(1).mul_(math.sqrt(3) * scale))


def tensor_specs(model: GPT) -> list[TensorSpec]:
    """Every parameter once, in the model's order; a tied embedding counts as embedding."""
    return [_spec(name, parameter) for name, parameter in model.named_parameters()]


def _spec(name: str, parameter: Tensor) -> TensorSpec:
    first, second, *_ = name.split(".")
    if first == "blocks":
        return TensorSpec(name, parameter.numel(), block=int(second))
    return TensorSpec(
        name, parameter.numel(), block=None, edge="embedding" if first == "embedding" else "head"
    )
