"""The machine and the versions that results were computed with."""

import os
import platform
from typing import Any

import torch

from qadv.benchmark.cells import versions


def environment() -> dict[str, Any]:
    """Returns what a report says about the machine, as plain data."""
    return {
        "versions": versions(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }
