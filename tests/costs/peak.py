"""The peak of live activations as a run of the module shows it: the oracle that the closed form is checked against."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from automl_prune.architecture.following import tensors_in
from automl_prune.architecture.tracing import weightless


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down which storages every operation reads and makes; channels and rules play no part."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.touched: list[set[int]] = []
        self.entries: dict[int, int] = {}
        self.held: list[torch.UntypedStorage] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.touched.append(self.storages(tree_leaves([args, kwargs, out])))
        return out

    def storages(self, things: Sequence[Any]) -> set[int]:
        tensors = [t for t in things if isinstance(t, Tensor)]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.held.append(storage)  # so that no address is used twice
            self.entries.setdefault(storage._cdata, storage.nbytes() // tensor.element_size())
        return {t.untyped_storage()._cdata for t in tensors}


def peak_mb(model: nn.Module, sample: Tensor) -> float:
    """What lives at once at most, at 4 bytes an entry: storages from the first operation that touches them to the last."""
    recorder = _Recorder()
    meta = weightless(model)
    weights = recorder.storages([*meta.parameters(), *meta.buffers()])
    with torch.inference_mode(), torch.device("meta"), recorder:
        results = list(tensors_in(meta(torch.empty(sample.shape, dtype=sample.dtype))))
    recorder.touched[-1] |= recorder.storages(results)
    steps = {key: [now for now, touched in enumerate(recorder.touched) if key in touched] for key in recorder.entries}
    spans = [(made[0], made[-1], recorder.entries[key]) for key, made in steps.items() if made and key not in weights]
    live = [sum(size for first, last, size in spans if first <= now <= last) for now in range(len(recorder.touched))]
    return 4 * max(live) / 1e6
