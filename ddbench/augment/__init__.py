"""Augmentations: crops, patch shuffling, CutMix, the views of an epoch, siamese augmentation; the parts of images."""

from ddbench.augment.colours import Colours, random_colours, shift_colours
from ddbench.augment.crops import crop_resize, denormalise, normalise, random_boxes
from ddbench.augment.mixing import Mix, cutmix, cutmix_box, kept_share, paste
from ddbench.augment.parts import enlarge_parts, tile_parts
from ddbench.augment.shuffling import random_places, shuffle_patches
from ddbench.augment.siamese import Augmentation, augment, draw_augmentation
from ddbench.augment.views import EpochViews, batch_slices, epoch_views

__all__ = [
    "Augmentation",
    "Colours",
    "EpochViews",
    "Mix",
    "augment",
    "batch_slices",
    "crop_resize",
    "cutmix",
    "cutmix_box",
    "denormalise",
    "draw_augmentation",
    "enlarge_parts",
    "epoch_views",
    "kept_share",
    "normalise",
    "paste",
    "random_boxes",
    "random_colours",
    "random_places",
    "shift_colours",
    "shuffle_patches",
    "tile_parts",
]
