"""DC and DSA (gradient matching): being written."""
