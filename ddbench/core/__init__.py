"""Basics that every other package uses: errors, events, seeds, atomic files, interruption, text. Imports no torch."""
