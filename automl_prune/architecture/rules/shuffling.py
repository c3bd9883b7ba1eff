"""Operations between channels and positions, or between groups of channels: what lies together goes together."""

from automl_prune.architecture.rules.base import Call, rule
from automl_prune.architecture.values import Value


@rule("pixel_shuffle")
def _pixel_shuffle(call: Call) -> object:
    """``[C r r]`` channels become ``[C]``: the r x r of each go together."""
    ids = call.along("self", -3)
    if ids is None:
        return NotImplemented
    parts = ids.reshape(-1, int(call["upscale_factor"]) ** 2)
    call.graph.ids.unite(parts[:, :1], parts, call.op)
    return Value.along(parts[:, 0], call.shape, len(call.shape) - 3)


@rule("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> object:
    ids = call.along("self", -3)
    if ids is None:
        return NotImplemented
    return Value.along(ids.repeat(int(call["downscale_factor"]) ** 2), call.shape, len(call.shape) - 3)


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: Call) -> object:
    """The groups lose the same positions."""
    ids = call.along("self", 1)
    if ids is None:
        return NotImplemented
    parts = ids.reshape(int(call["groups"]), -1)
    call.graph.ids.unite(parts[:1], parts, call.op)
    return Value.along(parts[0].repeat(len(parts)), call.shape, 1)


@rule("im2col")
def _unfold(call: Call) -> object:
    ids = call.along("self", 1)
    if ids is None:
        return NotImplemented
    return Value.along(ids.repeat(call.shape[1] // len(ids)), call.shape, 1)


@rule("col2im")
def _fold(call: Call) -> object:
    """Columns of one channel go together."""
    ids = call.along("self", 1)
    if ids is None:
        return NotImplemented
    parts = ids.reshape(call.shape[1], -1)
    call.graph.ids.unite(parts[:, :1], parts, call.op)
    return Value.along(parts[:, 0], call.shape, 1)
