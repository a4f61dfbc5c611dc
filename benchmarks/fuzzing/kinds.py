"""The kinds of trials by name: a new one is a function here."""

from .images import datasets
from .inputs import inputs
from .memory import memory
from .plugins import plugins
from .results import kills, results
from .studies import studies
from .tensors import checkpoints, networks, packed
from .threads import threads
from .trials import Kind

KINDS: dict[str, Kind] = {
    "networks": networks,
    "packed": packed,
    "checkpoints": checkpoints,
    "results": results,
    "studies": studies,
    "datasets": datasets,
    "inputs": inputs,
    "plugins": plugins,
    "threads": threads,
    "memory": memory,
    "kills": kills,
}
SLOW = {"kills": 20, "memory": 12}  # the most trials that are run of these, which take seconds each
