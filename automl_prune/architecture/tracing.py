"""From a module to an Architecture: channel ids follow the data through one forward pass.

The module runs once, without weights, on the meta device. A dispatch mode sees every ATen operation on its way: operations
that only move data are executed on the ids themselves, so there is no per-operation index rule that could be wrong;
convolutions and linear layers mint new ids; additions unite them (see :mod:`rules`). An operation without a rule is seen in
its parts where it has any; else it freezes what it touches, with a reason.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from automl_prune.architecture.channel_ids import INPUT, ChannelIds
from automl_prune.architecture.lifetimes import Lifetimes
from automl_prune.architecture.model import Architecture, Product
from automl_prune.architecture.rules import ON_WEIGHTS, RULES, SAME_SHAPE, Call, Graph, apply_rule
from automl_prune.architecture.values import Value
from automl_prune.cloning import clone
from automl_prune.errors import TraceError

_READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "item"}
"""Operations whose result the program itself may look at."""


def trace(model: nn.Module, example_input: Tensor) -> Architecture:
    """Describe a network's coupled channels.

    The module is not touched: a weightless copy on the meta device is run in evaluation mode, and in training mode where
    that uses further parameters. A module of anybody's own is run for real first, so that what its code keeps for later (a
    cached mask, say) is made of real tensors.

    Args:
        model: Any module that is called with one tensor.
        example_input: A batch ``[n, channels, …]``; only its shape and dtype matter, unless the program branches on its
            values.

    Raises:
        TraceError: The module fails its own forward pass, or has no tensor in its result.
    """
    _check(model, example_input)
    if not _well_known(model):
        _try(model, example_input)
    for samples in sorted({1, len(example_input)}):  # one is enough, unless the program names the size of its batch
        with contextlib.suppress(Exception), torch.device("meta"):
            return _follow_through(weightless(model), example_input[:samples].detach().to("meta"), model)
    try:  # the program reads values, or makes tensors elsewhere: it needs its weights
        with torch.random.fork_rng():
            return _follow_through(*_real(model, example_input), model)
    except Exception as error:
        _try(model, example_input)
        raise TraceError(
            f"{type(model).__name__} runs with an input of shape {list(example_input.shape)}, but cannot be traced: "
            f"{_first_line(error)}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Stumble:
    """Where a forward pass failed: the operation, what it said, and the layers that put out what it was given."""

    op: str
    error: str
    layers: frozenset[str]


def stumble(model: nn.Module, example_input: Tensor) -> Stumble | None:
    """The operation at which a network's forward pass fails on the meta device, or None: it runs, or fails elsewhere.

    Args:
        model: A module on the meta device, as :func:`weightless` makes it.
        example_input: As for :func:`trace`.
    """
    follower = _Follower(_graph(model, model, example_input), Lifetimes(1))
    try:
        with torch.device("meta"):
            _run(follower, model, example_input.detach().to("meta"))
    except Exception as error:
        if follower.failed is not None:
            op, values = follower.failed
            return Stumble(op, str(error).strip().partition("\n")[0], follower.graph.producers(values))
    return None


def weightless(model: nn.Module) -> nn.Module:
    """A copy of a module in evaluation mode whose parameters and buffers are on the meta device."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in model.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in model.buffers()}
    return clone(model, memo).eval()


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


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operation that touches an activation or a parameter to its rule."""

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


def _follow_through(model: nn.Module, example: Tensor, original: nn.Module) -> Architecture:
    """Run ``model``, a copy of ``original``, on an example and say what was seen."""
    graph = _graph(model, original, example)
    lifetimes = _lifetimes(graph, model)
    follower = _Follower(graph, lifetimes)
    results = _run(follower, model, example)
    if not results:
        raise TypeError("its forward pass returns no tensor.")
    learned = {name for name, _ in model.named_parameters()}
    if not learned <= follower.used:  # a head for training, say: what it is coupled with must fit it afterwards, too
        training = dataclasses.replace(graph, layers=[], products=[], values={}, _alive={})
        with contextlib.suppress(Exception):
            _run(_Follower(training, _lifetimes(training, model)), model.train(), example)
    lifetimes.keep(results)
    return _described(graph, lifetimes, learned, example)


def _lifetimes(graph: Graph, model: nn.Module) -> Lifetimes:
    lifetimes = Lifetimes(graph.batch)
    lifetimes.ignore(_named(model).values())
    return lifetimes


def _graph(model: nn.Module, original: nn.Module, example: Tensor) -> Graph:
    tensors = _named(model)
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), name)  # a tensor with two names goes by its first, so that both uses are cut alike
    return Graph(
        ids=ChannelIds(),
        batch=max(1, example.shape[0]),
        names=names,
        shapes={name: tuple(t.shape) for name, t in tensors.items()},
        rigid=dict(_rigid(model)),
        buffers={name: t for name, t in _named(original).items() if not t.is_floating_point()},
    )


def _run(follower: _Follower, model: nn.Module, example: Tensor) -> list[Tensor]:
    """The tensors that a forward pass returns, followed on the way."""
    with torch.inference_mode(), follower:
        example = example.clone()
        follower.graph.remember(example, Value.constant(INPUT, example.shape))
        results = list(tensors_in(model(example)))
    for result in results:
        follower.graph.freeze(follower.graph.values.get(id(result)), "network output")
    return results


def _described(graph: Graph, lifetimes: Lifetimes, learned: set[str], example: Tensor) -> Architecture:
    found = graph.ids.collect(graph.shapes, learned)
    described = {t.name for t in found.tensors}
    return Architecture(
        input_shape=tuple(example.shape[1:]),
        input_dtype=str(example.dtype).removeprefix("torch."),
        groups=found.groups,
        layers=tuple(graph.layers),
        tensors=found.tensors,
        uncut=sum(math.prod(graph.shapes[name]) for name in learned - described),
        products=tuple(Product(p.positions, tuple(map(found.runs, p.axes))) for p in graph.products),
        activations=lifetimes.activations(found),
    )


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _rigid(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Weights whose sizes their module also keeps as numbers, and what cannot be cut therefore."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            for parameter, _ in module.named_parameters(recurse=False):
                yield f"{name}.{parameter}".lstrip("."), "heads and embedding of nn.MultiheadAttention have fixed sizes"


def _check(model: object, example_input: object) -> None:
    if not isinstance(model, nn.Module):
        raise TraceError(f"A torch.nn.Module is traced; this is a {type(model).__name__}.")
    if any(nn.parameter.is_lazy(p) for p in (*model.parameters(), *model.buffers())):
        raise TraceError(f"{type(model).__name__} has lazy parameters, whose sizes are not known yet; run it once first.")
    if not isinstance(example_input, Tensor) or not example_input.dim() or not example_input.numel():
        came = f"shape {list(example_input.shape)}" if isinstance(example_input, Tensor) else type(example_input).__name__
        raise TraceError(f"The example input is a tensor [n, channels, …] with at least one entry; this is {came}.")


def _well_known(model: nn.Module) -> bool:
    """Whether all the code that a forward pass runs is torch's or torchvision's, which keep no tensors for later."""
    return all(type(m).__module__.partition(".")[0] in ("torch", "torchvision") for m in model.modules())


def _real(model: nn.Module, example_input: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy in evaluation mode with its weights, and the example where these are."""
    copied = clone(model).eval().requires_grad_(False)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), example_input.device)
    return copied, example_input.detach().to(device)


def _try(model: nn.Module, example_input: Tensor) -> None:
    """Run a copy once; raises TraceError where it fails."""
    try:
        copied, example = _real(model, example_input)
        with torch.random.fork_rng(), torch.no_grad():
            copied(example)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} fails its own forward pass with an input of shape {list(example_input.shape)}, "
            f"{str(example_input.dtype).removeprefix('torch.')}: {_first_line(error)} It must accept one tensor like this."
        ) from error


def _first_line(error: Exception) -> str:
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}".rstrip(": ").rstrip(".") + "."
