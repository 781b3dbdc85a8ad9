"""A federated run written from scratch in NumPy: the oracle of whole rounds.

It shares nothing with the library but the order in which examples are visited, which
the tests hand over as index arrays.
"""

import math

import numpy as np

Layers = list[tuple[np.ndarray, np.ndarray]]


def forward(layers: Layers, x: np.ndarray) -> list[np.ndarray]:
    """Activations of every layer, the inputs first and the logits last."""
    activations = [x]
    for number, (kernel, bias) in enumerate(layers):
        z = activations[-1] @ kernel + bias
        last = number == len(layers) - 1
        activations.append(z if last else np.maximum(z, 0.0))
    return activations


def losses(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=1))
    return log_total - shifted[np.arange(len(y)), y]


def gradients(layers: Layers, x: np.ndarray, y: np.ndarray) -> tuple[float, Layers]:
    """Mean cross-entropy and its gradients by backpropagation."""
    activations = forward(layers, x)
    logits = activations[-1]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta = exp / exp.sum(axis=1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1.0
    delta /= len(y)
    grads: Layers = []
    for number in reversed(range(len(layers))):
        kernel, _ = layers[number]
        grads.insert(0, (activations[number].T @ delta, delta.sum(axis=0)))
        delta = (delta @ kernel.T) * (activations[number] > 0)
    return float(losses(logits, y).mean()), grads


def apply_masks(layers: Layers, masks: Layers) -> Layers:
    return [(w * m, b * n) for (w, b), (m, n) in zip(layers, masks, strict=True)]


def train(layers, masks, x, y, orders, batch_size, rate, momentum, velocity):
    """One client's epochs of projected SGD; returns layers, velocity, mean loss."""
    layers, total = apply_masks(layers, masks), 0.0
    for order in orders:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            loss, grads = gradients(layers, x[batch], y[batch])
            total += loss * len(batch)
            velocity = [
                (momentum * vw + gw, momentum * vb + gb)
                for (vw, vb), (gw, gb) in zip(velocity, grads, strict=True)
            ]
            stepped = [
                (w - rate * vw, b - rate * vb)
                for (w, b), (vw, vb) in zip(layers, velocity, strict=True)
            ]
            layers = apply_masks(stepped, masks)
    return layers, velocity, total / (len(orders) * len(orders[0]))


def flatten(layers: Layers) -> np.ndarray:
    """Bias before kernel, layer after layer: the order of the library's trees."""
    return np.concatenate([part.ravel() for w, b in layers for part in (b, w)])


def unflatten(flat: np.ndarray, like: Layers) -> Layers:
    result, at = [], 0
    for kernel, bias in like:
        b = flat[at : at + bias.size]
        at += bias.size
        w = flat[at : at + kernel.size].reshape(kernel.shape)
        at += kernel.size
        result.append((w, b))
    return result


def keep_largest(layers: Layers, masks: Layers, sparsity: float) -> Layers:
    """The n - floor(s n) largest magnitudes inside the masks."""
    scores, inside = np.abs(flatten(layers)), flatten(masks)
    ranking = sorted(range(len(scores)), key=lambda i: (-inside[i], -scores[i], i))
    kept = np.zeros(len(scores))
    kept[ranking[: len(scores) - math.floor(sparsity * len(scores))]] = 1.0
    return unflatten(kept * inside, layers)


def mean(all_layers: list[Layers], weights: np.ndarray) -> Layers:
    shares = weights / weights.sum()
    flat = sum(s * flatten(one) for s, one in zip(shares, all_layers, strict=True))
    return unflatten(flat, all_layers[0])


def vote(all_masks: list[Layers]) -> Layers:
    votes = sum(flatten(one) for one in all_masks)
    needed = max(len(all_masks) // 2, 1)
    return unflatten((votes >= needed).astype(float), all_masks[0])
