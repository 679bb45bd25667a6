"""Computes a grid in this process, on Ray, or in several processes, and chooses between them."""
