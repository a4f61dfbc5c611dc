"""The norms by ART's names and by the official code's."""

import math

OFFICIAL: dict[float | str, str] = {math.inf: "Linf", 2: "L2", 1: "L1", "inf": "Linf", "2": "L2", "1": "L1"}
