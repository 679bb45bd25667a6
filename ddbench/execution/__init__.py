"""Where a grid is computed: the choice of the executor, Ray, several processes."""
