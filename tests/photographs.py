"""Folders of small pictures, drawn: each class has a colour of its own."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"apple": (200, 40, 40), "pear": (60, 180, 60), "plum": (70, 50, 170)}


def picture(colour=(128, 128, 128), size=(20, 14), seed=0):
    """A picture of one colour with noise; size as width, height."""
    noise = np.random.default_rng(seed).integers(-40, 41, (*size[::-1], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def photographs(folder, parts=(("train", 4), ("val", 2))):
    """Writes so many pictures of each class into each part; a part `""` is the folder itself. Returns the folder."""
    for part, number in parts:
        for name, colour in COLOURS.items():
            place = Path(folder) / part / name
            place.mkdir(parents=True)
            for index in range(number):
                seed = index + 100 * len(part)  # other pictures in other parts
                picture(colour, seed=seed).save(place / f"{index}.{'png' if index % 2 else 'jpg'}")
    return Path(folder)
