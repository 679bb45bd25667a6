"""DM and its Gaussian-kernel form (distribution matching): being written."""
