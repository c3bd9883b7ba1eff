"""Operations that treat each channel for itself: normalisation, pooling, resizing, parametric activations."""

import numpy as np

from automl_prune.architecture.rules.base import Call, layer_of, rule
from automl_prune.architecture.values import Value


@rule("batch_norm", same_shape=True)
@rule("instance_norm")
def _normalised(call: Call) -> object:
    """Per-channel statistics and parameters are cut with the channels."""
    channels = call.along("input", 1)
    if channels is None:
        return NotImplemented
    for argument in ("weight", "bias", "running_mean", "running_var"):
        _attach(call, argument, channels)
    return call.value("input")


@rule("group_norm")
def _group_norm(call: Call) -> object:
    """Channels that share statistics can only go together."""
    channels = call.along("input", 1)
    if channels is None:
        return NotImplemented
    groups = channels.reshape(int(call["num_groups"]), -1)
    call.graph.ids.unite(groups[:, :1], groups, "group_norm")
    for argument in ("weight", "bias"):
        _attach(call, argument, channels)
    return call.value("input")


@rule("layer_norm", "rms_norm")
def _layer_norm(call: Call) -> object:
    """Channels normalised together cannot be cut: the statistics of those that stay would change."""
    value = call.value("input")
    assert value is not None
    normalised = len(call["normalized_shape"])
    dims = range(len(value.shape) - normalised, len(value.shape))
    if any(value.varies(d) for d in dims):
        channels = value.vector(-1)
        if channels is not None and normalised == 1:
            for argument in ("weight", "bias"):
                _attach(call, argument, channels)
        call.graph.freeze(value, f"normalised together by {call.op}: a cut would change the statistics of the rest")
    return value


@rule("prelu")
def _prelu(call: Call) -> object:
    """One slope per channel, or one for all."""
    value = call.value("self") or call.value("input")
    assert value is not None
    if call["weight"].numel() > 1:
        channels = value.vector(1)
        if channels is None or call.weight("weight") is None:
            return NotImplemented
        _attach(call, "weight", channels)
    return value


def _attach(call: Call, argument: str, channels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    given, name = call.arguments.get(argument), call.weight(argument)
    if given is not None and given.numel() != len(channels):
        raise ValueError(f"{call.op} of {len(channels)} channels has a {argument} of {given.numel()}.")
    if name is not None:
        call.graph.ids.attach(name, 0, "scale", layer_of(name), channels)
    elif given is not None:
        call.graph.ids.freeze(channels, f"the {argument} of {call.op} is computed")


@rule(
    *(
        f"{kind}_pool{n}d"
        for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp", "fractional_max")
        for n in (1, 2, 3)
    ),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"_adaptive_avg_pool{n}d" for n in (2, 3)),
    *(f"upsample_{kind}{n}d" for kind in ("nearest", "_nearest_exact") for n in (1, 2, 3)),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d"),
    *(
        "upsample_bilinear2d",
        "upsample_bicubic2d",
        "upsample_trilinear3d",
        "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
    ),
    *("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"),
)
def _spatial(call: Call) -> object:
    """Positions change, channels stay: where they vary along one of the other dimensions, nothing is known."""
    value = call.value("self") or call.value("input")
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    if value is None:
        return NotImplemented
    call.graph.freeze(call.value("grid"), f"says where {call.op} looks")
    # Sizes change along the last dimensions only, the channels lie before them.
    resized = int(next(c for c in call.op if c.isdigit()) if "sampler" not in call.op else len(value.shape) - 2)
    if any(value.varies(d) for d in range(len(value.shape) - resized, len(value.shape))):
        return NotImplemented
    return [Value(value.core, tuple(o.shape)) for o in outs]


@rule("max_unpool2d", "max_unpool3d")
def _unpooled(call: Call) -> object:
    value, places = call.value("self"), call.value("indices")
    if value is None or places is None or any(value.varies(d) for d in range(2, len(value.shape))):
        return NotImplemented
    call.graph.ids.unite(value.core, places.core, call.op)
    return Value(value.core, call.shape)
