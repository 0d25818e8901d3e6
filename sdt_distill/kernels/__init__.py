"""Compiled layers for training: the network's own modules, given faster forward and backward passes in place.

Nothing here defines a network. A swap gives a module of `sdt_ros.network` another class, a subclass of its own that
computes the same thing, so parameters, names, hooks and checkpoints stay what they were.
"""

from sdt_distill.kernels.layers import use_fused_layers
from sdt_distill.kernels.neurons import FusedMLIF, use_fused_neurons

__all__ = ["FusedMLIF", "use_fused_layers", "use_fused_neurons"]
