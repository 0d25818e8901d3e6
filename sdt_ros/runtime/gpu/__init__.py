"""The network's modules in a GPU's own way: kernels, layers, number formats, graphs and the way of windows there."""
