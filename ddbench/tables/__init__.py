"""Tables: cells, the runs that fill them, tidy frames, and text layout."""
