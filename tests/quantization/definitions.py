"""METHODS §1 in NumPy, written from the text and independent of the package."""

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
    return np.round(np.clip(a, 0, c) * np.float32(n) / np.float32(c)) * np.float32(c) / np.float32(n)


def clip_mask(a, c):
    return ((a >= 0) & (a <= c)).astype(a.dtype)
