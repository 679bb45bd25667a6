"""Training of networks, and their accuracy."""

from ddbench.training.averaging import WeightAverage
from ddbench.training.batches import Batch, prefetch, to_device
from ddbench.training.loop import fit
from ddbench.training.patches import stitched_patches
from ddbench.training.schedules import constant, cosine, step_at_half
from ddbench.training.state import ExtendedCheckpoint
from ddbench.training.teacher import accuracy, class_confidence, train_on_real_images

__all__ = [
    "Batch",
    "ExtendedCheckpoint",
    "WeightAverage",
    "accuracy",
    "class_confidence",
    "constant",
    "cosine",
    "fit",
    "prefetch",
    "step_at_half",
    "stitched_patches",
    "to_device",
    "train_on_real_images",
]
