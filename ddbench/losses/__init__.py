"""Loss terms of distillation: features, logits, MMD, BatchNorm statistics."""

from ddbench.losses.batchnorm import class_moments, class_weight_matrix, global_bn, pcbn
from ddbench.losses.features import Form, cross_entropy, feature_match, mean_match
from ddbench.losses.mmd import gaussian_kernel_mean, gaussian_mmd, median_bandwidths

__all__ = [
    "Form",
    "class_moments",
    "class_weight_matrix",
    "cross_entropy",
    "feature_match",
    "gaussian_kernel_mean",
    "gaussian_mmd",
    "global_bn",
    "mean_match",
    "median_bandwidths",
    "pcbn",
]
