"""The code of the README, as it came with the installed distribution, runs."""

import re
from importlib import metadata

import numpy as np
import torch


def test_the_code_of_the_readme_runs(capsys):
    text = metadata.metadata("qadv-double-win").get_payload()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(blocks) == 1
    torch.manual_seed(0)
    np.random.seed(0)
    names: dict[str, object] = {}
    exec(blocks[0], names)
    clean, *attacked = (float(number) for number in re.findall(r"[\d.]+$", capsys.readouterr().out, flags=re.M))
    assert clean > 0.9
    assert all(figure < clean - 0.05 for figure in attacked)
    assert len(attacked) == 3
