"""The paper's figures, drawn from records and distilled sets. Imports no torch."""

FIGURES = {
    "barycenter": "Figure 1: barycenters under KL, MMD and Wasserstein.",
    "grid": "Figures 6 to 10: distilled images side by side.",
    "embedding": "Figure 4: t-SNE of real and distilled features.",
    "scaling": "Top-1 over images per class, measured and published.",
    "budget": "Top-1 over the bytes of images and labels, by label budget.",
    "lambda": "Figure 5a: top-1 over lambda, the BatchNorm weight.",
    "compute": "Top-1 over optimiser steps, measured during the training.",
}
"""The figures: descriptions by name."""
