"""Datasets: what they are (spec), where they lie (folders, arrays, download), their images (dataset)."""
