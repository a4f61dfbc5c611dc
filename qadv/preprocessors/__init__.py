"""Defenses on the images, as ART preprocessors in torch: gradients pass through all of them."""
