"""The arithmetic that every peer must do with the same bits: mean, outer step, merge, rebase.

Formulas and test vectors: docs/protocol.md ("Arithmetic"). Every multiplication and addition is a
numpy ufunc of its own in fp32, in the order written there: nothing is fused, so the result is the
same on every machine (I1). Optimized outer optimizers (`torch.optim.SGD`, `add(alpha=)`, `lerp`)
round differently in 20-40 % of the elements and must not replace these lines.
"""

from collections.abc import Sequence

import numpy as np

from protocol.codec import Values


def pseudo_gradient(global_params: Values, local_params: Values) -> Values:
    """`global_params - local_params`: how far a replica moved, as something to descend along.

    Streaming DiLoCo, Algorithm 2, line 7 (arXiv 2501.18512).
    """
    return np.subtract(global_params, local_params)


def weights_of(tokens: Sequence[int]) -> Values:
    """`w_i = fp32(tokens_i / max tokens)`: shape (contributors,), the largest is exactly 1.

    Tokens 0 gives weight 0: that peer is in the group and does not move the mean.
    """
    largest = max(tokens, default=0)
    if largest <= 0:
        return np.zeros(len(tokens), dtype=np.float32)
    return np.array([count / largest for count in tokens], dtype=np.float64).astype(np.float32)


def weighted_mean(parts: Sequence[Values], weights: Values) -> Values:
    """`(Σ w_i x_i) / (Σ w_i)`, both sums in the order given, which must be peer_id order.

    Args:
        parts: decoded contributions to one part, each of shape (part_values,).
        weights: shape (contributors,), with a sum greater than zero.
    """
    assert len(parts) == len(weights) and float(weights.sum()) > 0
    total = np.multiply(parts[0], weights[0])
    weight_sum = weights[0]
    for values, weight in zip(parts[1:], weights[1:], strict=True):
        total = np.add(total, np.multiply(values, weight))
        weight_sum = np.add(weight_sum, weight)
    mean: Values = np.divide(total, weight_sum)
    return mean


def outer_step(
    global_params: Values,
    momentum: Values,
    mean: Values,
    *,
    learning_rate: float,
    momentum_decay: float,
) -> tuple[Values, Values]:
    """One Nesterov step with the averaged pseudo-gradient g; returns new arrays.

    `B' = mu*B + g`, `global' = global - eta*(g + mu*B')` (Sutskever's form as torch writes it;
    arXiv 2311.08105 section 2, arXiv 2501.18512 Algorithm 2 line 12).
    """
    eta, mu = np.float32(learning_rate), np.float32(momentum_decay)
    new_momentum = np.add(np.multiply(momentum, mu), mean)
    direction = np.add(mean, np.multiply(new_momentum, mu))
    return np.subtract(global_params, np.multiply(direction, eta)), new_momentum


def apply_parts(
    global_params: Values,
    momentum: Values,
    parts: Sequence[Values | None],
    bounds: Sequence[tuple[int, int]],
    *,
    learning_rate: float,
    momentum_decay: float,
) -> tuple[Values, Values]:
    """What one entry does to its fragment: an outer step on every part that it has (I2).

    Args:
        global_params, momentum: of the whole fragment, flat; they stay as they are.
        parts: the decoded mean of each part, or None.
        bounds: (start, stop) of each part within the fragment.
    """
    new_global, new_momentum = global_params.copy(), momentum.copy()
    for (start, stop), mean in zip(bounds, parts, strict=True):
        if mean is not None:
            new_global[start:stop], new_momentum[start:stop] = outer_step(
                new_global[start:stop],
                new_momentum[start:stop],
                mean,
                learning_rate=learning_rate,
                momentum_decay=momentum_decay,
            )
    return new_global, new_momentum


def merge(local_params: Values, global_params: Values, alpha: float) -> Values:
    """`alpha*local + (1-alpha)*global'`: fold an outer step in that this replica contributed to.

    Algorithm 2, line 13. alpha is the weight of the LOCAL value.
    """
    keep = np.float32(alpha)
    return np.add(np.multiply(local_params, keep), np.multiply(global_params, np.float32(1) - keep))


def rebase(local_params: Values, old_global: Values, new_global: Values) -> Values:
    """`local + (global' - global)`: follow an outer step that this replica did NOT contribute to.

    Its next pseudo-gradient then is still exactly its own unsent movement. A merge here would
    throw that movement away; doing nothing would pull the swarm back by the step it missed.
    """
    return np.add(local_params, np.subtract(new_global, old_global))
