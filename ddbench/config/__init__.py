"""The configuration: its sections, the experiment of one run, recipes, the network catalogue. Imports no torch."""
