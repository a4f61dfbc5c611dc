"""Makes the files beside it, as others' tools write them.

    pip install "litert-torch==0.10"    # in an environment of its own: it pins older packages
    python make.py

Random weights, images (1, 16, 16, 3) in [0, 1], five classes.
"""

from pathlib import Path

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import quantizer, recipe
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
RECIPES = {
    "dynamic": recipe.dynamic_wi8_afp32(),
    "weight-only": recipe.weight_only_wi8_afp32(),
    "int8": recipe.static_wi8_ai8(),
    "int16": recipe.static_wi8_ai16(),
}


class Net(nn.Module):
    """A convolution with BatchNorm, a depthwise one, a residual sum, pools, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.dw, self.pw = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.c2, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.dw(F.relu(self.bn(self.c1(x)))))
        x = self.pw(x)
        x = F.max_pool2d(F.hardswish(self.c2(x) + x), 2)
        return self.fc(x.mean((2, 3)))


if __name__ == "__main__":
    torch.manual_seed(0)
    network = litert_torch.to_channel_last_io(Net().eval(), args=[0])
    plain = HERE / "float.tflite"
    litert_torch.convert(network, (torch.rand(1, 16, 16, 3),)).export(str(plain))
    rng = np.random.default_rng(0)
    images = {"serving_default": [{"args_0": rng.random((1, 16, 16, 3), dtype=np.float32)} for _ in range(32)]}
    for name, each in RECIPES.items():
        made = quantizer.Quantizer(str(plain))
        made.load_quantization_recipe(each)
        calibrated = made.calibrate(images) if made.need_calibration else None
        made.quantize(calibrated).export_model(str(HERE / f"{name}.tflite"), overwrite=True)
    plain.unlink()
