"""Networks: building and loading, features and BatchNorm moments, compilation, memory, devices."""

from ddbench.nn.batchnorm_moments import Moments, moments
from ddbench.nn.build import build_network
from ddbench.nn.checkpoint_files import read_checkpoint
from ddbench.nn.device import autocast
from ddbench.nn.layer_inputs import Statistics, collect_inputs, convolutions, patch_moments, tap_inputs
from ddbench.nn.layers import batch_norms, final_classifier, weighted_layers
from ddbench.nn.memory import OOMBatcher, in_parts, is_out_of_memory
from ddbench.nn.taps import TappedNetwork

__all__ = [
    "Moments",
    "OOMBatcher",
    "Statistics",
    "TappedNetwork",
    "autocast",
    "batch_norms",
    "build_network",
    "collect_inputs",
    "convolutions",
    "final_classifier",
    "in_parts",
    "is_out_of_memory",
    "moments",
    "patch_moments",
    "read_checkpoint",
    "tap_inputs",
    "weighted_layers",
]
