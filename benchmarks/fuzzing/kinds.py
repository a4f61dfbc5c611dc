"""The kinds of trials by name: a new one is a function here."""

from .images import datasets
from .memory import memory
from .results import kills, results
from .studies import studies
from .tensors import checkpoints, networks, packed
from .trials import Kind

KINDS: dict[str, Kind] = {
    "networks": networks,
    "packed": packed,
    "checkpoints": checkpoints,
    "results": results,
    "studies": studies,
    "datasets": datasets,
    "memory": memory,
    "kills": kills,
}
SLOW = {"kills": 20, "memory": 12}  # the most trials that are run of these, which take seconds each
