"""Distilled sets, the recover loop, and the tasks that methods and protocols get."""
