"""A run of one experiment: requests, stages, keys, builds, records; and the run of a grid."""
