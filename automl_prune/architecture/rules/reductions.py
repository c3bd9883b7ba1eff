"""Operations that gather entries along dimensions."""

import numpy as np

from automl_prune.architecture.channel_ids import FIXED
from automl_prune.architecture.rules.base import Call, rule, shape_of
from automl_prune.architecture.rules.elementwise import combine_all
from automl_prune.architecture.values import Value


@rule(
    *("sum", "mean", "prod", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "all", "any", "norm"),
    *("linalg_vector_norm", "logsumexp", "argmax", "argmin", "median", "nanmean", "nansum", "count_nonzero", "aminmax"),
)
def _reduced(call: Call) -> object:
    """Over positions it keeps the channels. A sum over channels loses them and is exact, as cut ones are zero."""
    value, other = call.value("self"), call.value("other")
    assert value is not None
    if other is not None:  # the larger of two tensors, entry by entry
        return combine_all(call, [value, other])
    dims = _dims(call, len(value.shape))
    if any(value.varies(d) for d in dims):
        if call.op not in ("sum", "nansum", "norm", "linalg_vector_norm"):
            return NotImplemented
        if any(value.varies(d) for d in range(len(value.shape)) if d not in dims):
            return NotImplemented
        return [Value.constant(FIXED, t.shape) for t in _results(call)]
    kept = [d for d in range(len(value.shape)) if d not in dims]
    results = []
    for tensor in _results(call):
        same = tensor.dim() == len(value.shape)
        core = value.core if same else value.core.reshape([value.core.shape[d] for d in kept])
        results.append(Value(core, tuple(tensor.shape)))
    return results


@rule(
    *(
        "softmax",
        "_softmax",
        "log_softmax",
        "_log_softmax",
        "softmin",
        "cumsum",
        "cumprod",
        "logcumsumexp",
        "sort",
        "argsort",
    ),
    *("topk", "cummax", "cummin", "renorm"),
)
def _within(call: Call) -> object:
    """Along positions each channel is for itself; along channels they depend on each other."""
    value = call.value("self") or call.value("input")
    assert value is not None
    dim = int(call["dim"]) % max(1, len(value.shape))
    if value.varies(dim):
        return NotImplemented
    return [Value(value.core, tuple(t.shape)) for t in _results(call)]


@rule("glu")
def _glu(call: Call) -> object:
    """Two halves are multiplied: they lose the same positions."""
    value = call.value("self")
    assert value is not None
    dim = int(call["dim"]) % len(value.shape)
    if value.varies(dim):
        along = np.moveaxis(value.core, dim, 0)
        half = len(along) // 2
        call.graph.ids.unite(along[:half], along[half:], "glu")
        return value.moved(np.moveaxis(along[:half], 0, dim), call.shape)
    return Value(value.core, call.shape)


@rule("gather", "take_along_dim")
def _gathered(call: Call) -> object:
    """Positions can be chosen per channel."""
    value, index = call.value("self"), call.value("index") or call.value("indices")
    if value is None or call.arguments.get("dim") is None or value.varies(int(call["dim"])):
        return NotImplemented
    if index is not None and index.varying:
        call.graph.ids.unite(value.core, index.core, call.op)
    return Value(value.core, call.shape)


def _dims(call: Call, count: int) -> list[int]:
    given = call.arguments.get("dim")
    if given is None or (isinstance(given, list | tuple) and not given):
        return list(range(count))
    return [d % count for d in shape_of(given)]


def _results(call: Call) -> list:  # type: ignore[type-arg]
    return list(call.out) if isinstance(call.out, tuple) else [call.out]
