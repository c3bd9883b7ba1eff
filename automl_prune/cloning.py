"""Copy a module as ``copy.deepcopy`` does, several times faster.

Most of what a deep copy of a network spends its time on are small things that every module has: names, numbers and a dozen
mostly empty dictionaries of hooks. Those are copied here by a few lines of their own; everything else, and every module that
says itself how it is copied, goes to ``copy.deepcopy`` with the same memo, so that what was shared stays shared.
"""

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

Memo = dict[int, Any]

_SHARED = frozenset(
    {type(None), bool, int, float, complex, str, bytes, type, FunctionType, BuiltinFunctionType, torch.dtype, torch.Size}
)
"""Types whose values cannot change: the copy has the same ones."""


def clone(module: nn.Module, memo: Memo | None = None) -> nn.Module:
    """A deep copy of a module, hooks and shared parts included.

    Computed tensors (as ``torch.nn.utils.weight_norm`` leaves them until the next forward pass) are copied without their
    history, where ``copy.deepcopy`` refuses.

    Args:
        module: What is copied; it is not touched.
        memo: Copies that exist already, by ``id`` of the original, as ``copy.deepcopy`` takes it; it is filled.
    """
    copied: nn.Module = _copy(module, {} if memo is None else memo)
    return copied


def _copy(value: Any, memo: Memo) -> Any:
    kind: type = type(value)
    if kind in _SHARED:
        return value
    found = memo.get(id(value))
    if found is not None:
        return found
    if kind in _COPIERS:
        return _COPIERS[kind](value, memo)
    return _module(value, memo) if _follows_protocol(kind) else copy.deepcopy(value, memo)


def _module(module: nn.Module, memo: Memo) -> nn.Module:
    new: nn.Module = type(module).__new__(type(module))
    memo[id(module)] = new
    state = module.__getstate__()  # type: ignore[no-untyped-call,unused-ignore]  # object's, or the module's own
    memo.setdefault(id(memo), []).append(state)  # alive as long as the memo, or another object may take its id
    new.__setstate__(_copy(state, memo))  # type: ignore[no-untyped-call]
    return new


def _mapping(values: dict[Any, Any], memo: Memo) -> dict[Any, Any]:
    new = memo[id(values)] = type(values)()
    for key, value in values.items():  # most are names and numbers: they are not worth a call
        key = key if type(key) in _SHARED else _copy(key, memo)
        new[key] = value if type(value) in _SHARED else _copy(value, memo)
    return new


def _list(values: list[Any], memo: Memo) -> list[Any]:
    new: list[Any] = []
    memo[id(values)] = new
    new.extend(_copy(value, memo) for value in values)
    return new


def _set(values: set[Any], memo: Memo) -> set[Any]:
    new = memo[id(values)] = {_copy(value, memo) for value in values}
    return new


def _tuple(values: tuple[Any, ...], memo: Memo) -> tuple[Any, ...]:
    if all(type(value) in _SHARED for value in values):
        return values
    result: tuple[Any, ...] = copy.deepcopy(values, memo)
    return result


def _tensor(tensor: Tensor, memo: Memo) -> Tensor:
    counter = not tensor.dim() and not tensor.requires_grad and not vars(tensor)  # a normalisation layer's, say
    if tensor.is_leaf and not counter:
        return copy.deepcopy(tensor, memo)
    new = memo[id(tensor)] = tensor.detach().clone()
    return new


_COPIERS: dict[type, Callable[[Any, Memo], Any]] = {
    dict: _mapping,
    OrderedDict: _mapping,
    list: _list,
    set: _set,
    tuple: _tuple,
    Tensor: _tensor,
}


@lru_cache(maxsize=1024)
def _follows_protocol(kind: type) -> bool:
    """Whether this is a module whose copy is its state's copy: it defines neither ``__deepcopy__`` nor how it is rebuilt."""
    return (
        issubclass(kind, nn.Module)
        and not issubclass(kind, dict | list)
        and not hasattr(kind, "__deepcopy__")
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind not in copyreg.dispatch_table
    )
