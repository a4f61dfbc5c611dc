"""Float networks of the papers, and any timm model, by name."""

from qadv.backbones.create import create_backbone
from qadv.backbones.recipes import recipe_of

__all__ = ["create_backbone", "recipe_of"]
