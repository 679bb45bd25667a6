"""Pictures: the preview of a run, and the paper's figures, drawn anew from records and distilled sets."""

from ddbench.figures.previews import GAP, preview

__all__ = ["GAP", "preview"]
