"""Distilled sets, the recover loop, and the tasks that are passed to methods and protocols."""
