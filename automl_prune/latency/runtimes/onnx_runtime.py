"""ONNX Runtime on the CPU, which many deploy there; convolution, normalisation and activation become one operation."""

import importlib.util
import io
import warnings
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from automl_prune.errors import MeasurementError
from automl_prune.latency.blocks import Signature
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.layouts import BLOCKED, PLAIN, Layout
from automl_prune.latency.runtimes.base import RUNTIMES, Runtime
from automl_prune.latency.timing import Run
from automl_prune.messages import said


@RUNTIMES.add_instance("onnxruntime")
class OnnxRuntime(Runtime):
    """ONNX Runtime's CPU provider, all graph optimisations on."""

    help = "ONNX Runtime on the CPU, all optimisations on; pip install automl-prune[onnx]."

    def version(self) -> str | None:
        """That of onnxruntime, and of torch, which makes the graphs; None where it, or onnx, is not installed."""
        there = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
        return f"{version('onnxruntime')} exported by torch {torch.__version__}" if there else None

    def layout(self, signature: Signature) -> Layout:
        """Convolutions of one group compute in blocks of channels where they can."""
        return BLOCKED if signature.kind == "conv" and signature.groups == 1 else PLAIN

    def ready(self, model: nn.Module, sample: Tensor, conditions: Conditions) -> Run:
        """A call of a session; its input lies where it was put once."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = conditions.threads, 1
        options.log_severity_level = 3
        # Threads of a pool may spin within a call, as they do where networks are deployed, but not after it: then it is the
        # other session's turn, which they would take processors from.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = onnxruntime.InferenceSession(exported(model, sample), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # it has a class of its own for every kind
            raise MeasurementError(f"ONNX Runtime cannot load the network: {said(error)}") from error
        feed: dict[str, Any] = {session.get_inputs()[0].name: sample.numpy()}
        outputs = [session.get_outputs()[0].name]
        run: Run = lambda: session.run(outputs, feed)  # noqa: E731 - what is timed should be one call
        run()
        return run


def exported(model: nn.Module, sample: Tensor) -> bytes:
    """The network as ONNX, for batches of the sample's size.

    By torch's tracing exporter: 10 ms for a layer, where the newer one takes seconds, and tables need hundreds of layers.

    Raises:
        MeasurementError: It cannot be exported.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one, and about single operations
        try:
            torch.onnx.export(model, (sample,), file, dynamo=False)  # type: ignore[arg-type]
        except Exception as error:
            raise MeasurementError(f"torch cannot export the network to ONNX: {said(error)}") from error
    return file.getvalue()
