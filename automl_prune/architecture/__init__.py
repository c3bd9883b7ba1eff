"""What a network is, as data: layers, coupled channel groups, and the tracing that finds them."""

from automl_prune.architecture.model import Architecture, Axis, ChannelGroup, Layer, Run, Tensor

__all__ = ["Architecture", "Axis", "ChannelGroup", "Layer", "Run", "Tensor"]
