"""Whether two classifiers are one network: an attack from one on the other is then no transfer."""

import hashlib

import torch
from torch import nn

from qadv.estimators.protocol import Classifier
from qadv.tensor_parts import plain_tensors


def fingerprint(classifier: Classifier) -> str:
    """Returns a hash of a classifier's network, 32 hexadecimal digits.

    It is the same for networks of the same layers and quantizers with the same parameters and buffers, to the bit, on
    whatever device. What stands before the network, as standardisation and preprocessors do, does not count.
    """
    return fingerprint_of(classifier.model)


def fingerprint_of(network: nn.Module) -> str:
    """Returns the same of a network by itself."""
    found = hashlib.blake2b(repr(network).encode(), digest_size=16)
    for name, tensor in sorted(plain_tensors(network.state_dict()).items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
