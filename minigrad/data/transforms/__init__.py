"""Transforms: random changes of batches of images, each image with parameters of its own."""

from minigrad.data.transforms.affine import RandomAffine, RandomRotation, RandomScale
from minigrad.data.transforms.color import ColorJitter
from minigrad.data.transforms.crop import RandomCrop, RandomHorizontalFlip, RandomVerticalFlip
from minigrad.data.transforms.erasing import Cutout, RandomErasing
from minigrad.data.transforms.mixing import CutMix, MixUp
from minigrad.data.transforms.resize import Resize
from minigrad.data.transforms.transform import Compose, Normalize, ToFloat, Transform

__all__ = [
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "MixUp",
    "Normalize",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomRotation",
    "RandomScale",
    "RandomVerticalFlip",
    "Resize",
    "ToFloat",
    "Transform",
]
