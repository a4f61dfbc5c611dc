"""Ways to damage bytes and plain data."""

import copy
import json
import math
import random
from typing import Any

ODD: list[Any] = [
    None, True, False, -1, 0, 1, 3, 255, 2**31, 2**63 - 1, -(2**63), 0.0, -0.5, 1e-45, 1e308, math.inf, -math.inf,
    math.nan, "", "a", "none", "float", "int:4", "int:99", "8/0", "[/x]", "$x$", "\x00", "\ud800", "../../x",
    "/dev/zero", "9" * 300, [], [0], [[]], [1, 2, 3], {}, {"a": 1}, [None] * 5,
]  # fmt: skip


def damaged_bytes(content: bytes, draws: random.Random) -> bytes:
    """Returns other bytes: bits flipped, a part lost, doubled, moved or made zero, an end added or cut off."""
    if not content:
        return b"\0"
    data = bytearray(content)
    place = draws.randrange(min(len(data), 4096)) if draws.random() < 0.4 else draws.randrange(len(data))
    size = min(draws.choice([1, 2, 8, 64, 512]), len(data) - place)
    way = draws.randrange(9)
    if way < 3:
        for _ in range(draws.choice([1, 1, 1, 2, 8])):
            data[draws.randrange(len(data)) if way else place] ^= 1 << draws.randrange(8)
    elif way == 3:
        del data[place:]
    elif way == 4:
        del data[place : place + size]
    elif way == 5:
        data[place:place] = draws.randbytes(size)
    elif way == 6:
        data[place : place + size] = bytes(size)
    elif way == 7:
        data[place : place + size] = draws.randbytes(size)
    else:
        data += draws.choice([b"\0", draws.randbytes(size), bytes(data[:size])])
    return bytes(data)


def damaged_data(value: Any, draws: random.Random) -> Any:
    """Returns a copy of plain data with one entry, at any depth, gone, renamed, or something odd."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return draws.choice(ODD)
    holder, key = draws.choice(places)
    way = draws.random()
    if way < 0.25:
        del holder[key]
    elif way < 0.35 and isinstance(holder, dict):
        holder[f"{key}{draws.choice('_ x')}"] = holder.pop(key)
    elif way < 0.5 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = draws.choice([-1, 0, 2, 0.5, 1e9]) * holder[key] + draws.choice([-1, 0, 1])
    else:
        holder[key] = copy.deepcopy(draws.choice(ODD))
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key, entry in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(entry)


def json_bytes(value: Any) -> bytes:
    """Returns plain data as JSON, lone surrogates and NaN included."""
    return json.dumps(value).encode()
