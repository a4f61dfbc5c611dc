"""A torch preprocessor of ART's kind that needs no further package."""

import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch


class Blur(PreprocessorPyTorch):
    """3x3 mean of single-channel images, also in training."""

    def __init__(self):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=True, apply_predict=True)

    def forward(self, x, y=None):
        return torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1), y
