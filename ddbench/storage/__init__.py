"""Stored results: artifact files, checkpoints, the cache of a folder, and copies of both on shared storage."""
