"""SRe2L and CDA (teacher inversion by cross-entropy and global BatchNorm): being written."""
