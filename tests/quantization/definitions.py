"""docs/methods.md §1 in NumPy, written from the text and independent of the package."""

import numpy as np


def int_weights(w, k):
    n = 2 ** (k - 1) - 1
    out = np.zeros_like(w)
    for i, row in enumerate(w):
        scale = np.abs(row).max() / np.float32(n)
        if scale > 0:
            out[i] = np.clip(np.round(row / scale), -n, n) * scale
    return out


def bwn(w):
    out = np.zeros_like(w)
    for i, row in enumerate(w):
        out[i] = np.where(row >= 0, 1, -1) * np.abs(row).mean()
    return out


def twn(w):
    out = np.zeros_like(w)
    for i, row in enumerate(w):
        kept = np.abs(row) > 0.7 * np.abs(row).mean()
        if kept.any():
            out[i] = np.where(kept, np.sign(row), 0) * np.abs(row[kept]).mean()
    return out


def clipped_relu(a, c, k):
    n = 2**k - 1
    return np.round(np.clip(a, 0, c) * np.float32(n / c)) * np.float32(c / n)


def clip_mask(a, c):
    return ((a >= 0) & (a <= c)).astype(a.dtype)


def int_per_tensor_weights(w, k):
    return int_weights(w.reshape(1, -1), k).reshape(w.shape)


def sign(w):
    return np.where(w >= 0, 1, -1).astype(w.dtype)


def dorefa_before_rounding(w):
    t = np.tanh(w.astype(np.float64))
    return t / (np.abs(t).max() or 1.0)


def pwlq(row, p, k):
    """One filter in float64: k bits on [-p, p], k - 1 bits on each tail up to max |w|."""
    a = np.abs(row.astype(np.float64))
    centre, tail = p / (2 ** (k - 1) - 1), (a.max() - p) / 2 ** (k - 1)
    inner = np.round(a / centre) * centre
    outer = p + np.round((a - p) / tail) * tail if tail > 0 else a
    return np.sign(row) * np.where(a <= p, inner, outer)


def pwlq_error(row, p, k):
    return np.square(pwlq(row, p, k) - row).sum()
