"""Float networks of the papers, and any timm model, by name."""

from qadv.backbones.create import create_backbone

__all__ = ["create_backbone"]
