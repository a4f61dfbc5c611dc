"""Study files, as `qadv bench --dry-run` reads them."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from qadv.benchmark.command import estimated, planned
from qadv.benchmark.study import Study
from qadv.benchmark.study_file import read_study

from .damage import damaged_bytes
from .trials import Trial

SMALLEST = """
title = "smallest"
datasets = ["digits"]
seeds = [0]
nb_train = 64
nb_test = 8

[backbones.mnist-cnn]
options = { image_size = 8, width = 2 }

[quantizers.float]

[quantizers.w4a4]
weights = "int:4"
activations = "relu6:4"

[defenses.none]
trainer = "dq"
options = { beta = 0.0, lr = 0.05 }
fit = { nb_epochs = 1, batch_size = 32 }

[attacks.fgsm]
attack = "FastGradientMethod"
options = { eps = "2/10" }
source = "each"

[measures.gradient-similarity]

[[grid]]
quantizers = ["w4a4", "float"]
defenses = ["none"]

[[published]]
defense = "none"
accuracy = { clean = 90.0, fgsm = "<5" }

[small]
nb_test = 4
"""
_VALUES = [
    '""', '"8/0"', '"0/0"', "nan", "inf", "-inf", "-1", "0", "1", "1e400", "9" * 5000, "0x" + "f" * 5000, "true", "[]",
    "{}", "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "[" * 10_000 + "]" * 10_000, "[" * 200 + "]" * 200, "0.5",
    '"/dev/zero"', '"none"', '"each"', '"digits"', '"../x"', '"[/x]"', '"$x$"', '"\\u0000"', f'"{"x" * 300}"',
    "[1, 2, 3]", '["w4a4"]', "{ a = 1 }", "2147483648", "9223372036854775808", '{ defense = "none" }', '"int:4"',
    '{ name = "bit-depth" }',
]  # fmt: skip
_LINES = [
    "[[grid]]\ndefenses = []", "[[grid]]\nattacks = []", "[attacks.'[/x]']\nattack = \"DeepFool\"", "[small", "x = 1",
    "[backbones.'$x$']\ncheckpoint = \"/dev/zero\"", '[backbones.other]\nbackbone = "resnet20"', "[measures.audit]",
    '[defenses.b]\nstart = "b"', '[defenses.c]\nmembers = ["float", "w4a4"]\nof = "none"', "a" + ".a" * 2000 + " = 1",
    "[small.grid]", "title = 1", "[backbones.mnist-cnn]", '[quantizers.q]\nweights = { "*" = "int:4" }',
    '[measures.m]\nattacks = ["fgsm"]',
]  # fmt: skip


def studies(folder: Path) -> Trial:
    """Study files with lines that are gone, doubled, moved or new, odd values, and damaged bytes."""
    path = folder / "study.toml"

    def keys(small: bool) -> list[str]:
        file = read_study(path, small)
        cells = planned(file, None)
        estimated(file, cells)
        again = Study.model_validate(json.loads(json.dumps(file.study.model_dump(mode="json"))))  # as a report does
        assert again == file.study, "a report reads another study than was planned"
        return [cell.key for cell in cells]

    path.write_text(SMALLEST)
    expected = {small: keys(small) for small in (False, True)}

    def trial(draws: random.Random) -> str:
        small = draws.random() < 0.2
        if draws.random() < 0.2:
            path.write_bytes(damaged_bytes(SMALLEST.encode(), draws))
        else:
            path.write_text(
                draws.choice(_WAYS)(SMALLEST.splitlines(), draws), encoding="utf-8", errors="surrogateescape"
            )
        return "same" if keys(small) == expected[small] else "as written"

    return trial


def _odd_value(lines: list[str], draws: random.Random) -> str:
    """Puts an odd value in the place of one that is there."""
    text = "\n".join(lines)
    places = list(re.finditer(r'(?<== )("[^"\n]*"|[\d.]+|\[[^\[\]\n]*\])(?=[\n,} ])', text))
    place = draws.choice(places)
    return text[: place.start()] + draws.choice(_VALUES) + text[place.end() :]


def _line(lines: list[str], draws: random.Random) -> str:
    """Loses, doubles or moves a line, or has a new one."""
    index, way = draws.randrange(len(lines)), draws.randrange(4)
    line = draws.choice(_LINES) if way == 3 else lines[index]
    if way != 3 and way != 1:
        del lines[index]
    if way:
        lines.insert(draws.randrange(len(lines)), line)
    return "\n".join(lines)


def _name(lines: list[str], draws: random.Random) -> str:
    """Gives something another name everywhere."""
    old = draws.choice(["none", "w4a4", "float", "fgsm", "mnist-cnn", "eps", "options", "nb_test"])
    new = draws.choice(
        ["'[/x]'", "'$x$'", f"'{'x' * 300}'", "'[bold]'", '"\\\\"', '"a.b"', "''", "small", "each", "clean"]
    )
    return "\n".join(lines).replace(old, new.strip("'\"") if draws.random() < 0.2 else new)


_WAYS: list[Callable[[list[str], random.Random], str]] = [_odd_value, _odd_value, _line, _name]
