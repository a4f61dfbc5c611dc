"""Labelled images, as arrays or read from files batch by batch; one interface for both."""

from qadv.datasets.arrays import Images, cifar10, cifar10_16, cifar100, digits, mnist, svhn
from qadv.datasets.choose import data_folder, make_dataset
from qadv.datasets.dataset import ImageDataset

__all__ = [
    "ImageDataset",
    "Images",
    "cifar10",
    "cifar10_16",
    "cifar100",
    "data_folder",
    "digits",
    "make_dataset",
    "mnist",
    "svhn",
]
