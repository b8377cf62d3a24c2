"""The expert feed-forward on a GPU: packing, grouping of rows, and the kernels. Nothing here is imported without need."""
