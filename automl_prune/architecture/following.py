"""One forward pass with eyes on it: every ATen operation is handed to its rule on its way."""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from automl_prune.architecture.channel_ids import INPUT, ChannelIds
from automl_prune.architecture.lifetimes import Lifetimes
from automl_prune.architecture.rules import ON_WEIGHTS, RULES, SAME_SHAPE, Call, Graph, apply_rule
from automl_prune.architecture.values import Value

_READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "item"}
"""Operations whose result the program itself may look at."""


def tensors_in(result: object) -> Iterator[Tensor]:
    """Every tensor in what a network returns (a tensor, sequence, mapping, object or any nesting), once and in order."""
    seen: dict[int, object] = {}
    waiting = [result]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | Enum | nn.Module | str):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, Mapping):
            waiting.extend(reversed(list(thing.values())))
        elif isinstance(thing, list | tuple | set):
            waiting.extend(reversed(list(thing)))
        elif hasattr(thing, "__dict__"):
            waiting.extend(reversed(list(vars(thing).values())))


class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operation that touches an activation or a parameter to its rule.

    Attributes:
        used: Names of the parameters and buffers that were read.
        failed: The first operation that raised, and what is known of what it was given.
    """

    def __init__(self, graph: Graph, lifetimes: Lifetimes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph, self.lifetimes = graph, lifetimes
        self.used: set[str] = set()
        self.failed: tuple[str, list[Value]] | None = None

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        op = _plain(func)
        given = [*args, *kwargs.values()]
        self.used.update(name for t in tensors_in(given) if (name := self.graph.names.get(id(t))))
        follows = any(map(self.graph.knows, given))
        if op not in RULES and follows:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        try:
            out = _result(func, op, args, kwargs)
        except Exception:
            self.failed = self.failed or (op, [v for t in tensors_in(given) if (v := self.graph.values.get(id(t)))])
            raise
        if follows or (op in ON_WEIGHTS and any(map(self.graph.has_weight, given))):
            self._follow(func, op, args, kwargs, out)
        self.lifetimes.step(given, [out], self.graph.value)
        return out

    def _follow(self, func: Any, op: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        arguments = {a.name: a.default_value if a.has_default_value() else None for a in func._schema.arguments}
        arguments |= dict(zip(arguments, args, strict=False))
        call = Call(self.graph, op, {**arguments, **kwargs}, out)
        if op in _READS:
            said = "item" if op == "_local_scalar_dense" else op
            self._stop(f"what follows depends on values of the input ({said}); only one way through was seen")
        elif op not in RULES and func._schema.is_mutable:
            self._written(call)
        else:
            apply_rule(call)

    def _stop(self, reason: str) -> None:
        """Freeze what is in use, and all that comes."""
        for value in self.graph.values.values():
            self.graph.freeze(value, reason)
        self.graph.ids.stopped = reason

    def _written(self, call: Call) -> None:
        """A tensor is written into: the entries in question stay where they are."""
        for tensor in tensors_in(list(call.arguments.values())):
            self.graph.freeze(self.graph.values.get(id(tensor)), f"written in place by {call.op}")


def _plain(func: Any) -> str:
    """An operation's plain name: ``relu`` for ``aten::relu_``."""
    name: str = func._schema.name.rpartition("::")[2]
    return name.rstrip("_") if not name.startswith("__") else name


def _result(func: Any, op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What an operation returns. On the meta device the shapes of the commonest take most of the time: they are known."""
    if op in SAME_SHAPE and args and isinstance(args[0], Tensor) and args[0].is_meta:
        return args[0] if func._schema.is_mutable else torch.empty_like(args[0])
    if op == "linear" and args[0].is_meta and args[0].shape[-1:] == args[1].shape[1:]:
        return args[0].new_empty((*args[0].shape[:-1], len(args[1])))
    return func(*args, **kwargs)


def lifetimes_of(graph: Graph, model: nn.Module) -> Lifetimes:
    """A record of what a pass keeps in memory, without the module's own tensors."""
    lifetimes = Lifetimes(graph.batch)
    lifetimes.ignore(named_tensors(model).values())
    return lifetimes


def graph_of(model: nn.Module, original: nn.Module, example: Tensor) -> Graph:
    """The state of a pass through ``model``, a copy of ``original``, before it begins."""
    tensors = named_tensors(model)
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), name)  # a tensor with two names goes by its first, so that both uses are cut alike
    return Graph(
        ids=ChannelIds(),
        batch=max(1, example.shape[0]),
        names=names,
        shapes={name: tuple(t.shape) for name, t in tensors.items()},
        rigid=dict(_rigid(model)),
        buffers={name: t for name, t in named_tensors(original).items() if not t.is_floating_point()},
    )


def followed(follower: Follower, model: nn.Module, example: Tensor) -> list[Tensor]:
    """The tensors that a forward pass returns, followed on the way."""
    with torch.inference_mode(), follower:
        example = example.clone()
        follower.graph.remember(example, Value.constant(INPUT, example.shape))
        results = list(tensors_in(model(example)))
    for result in results:
        follower.graph.freeze(follower.graph.values.get(id(result)), "network output")
    return results


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _rigid(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Weights whose sizes their module also keeps as numbers, and what cannot be cut therefore."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            for parameter, _ in module.named_parameters(recurse=False):
                yield f"{name}.{parameter}".lstrip("."), "heads and embedding of nn.MultiheadAttention have fixed sizes"
