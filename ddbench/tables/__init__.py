"""Tables: their cells, the runs that fill them, their tidy frames and their layout as text."""
