"""What a candidate takes in milliseconds, measured on the device that it is meant for."""

from automl_prune.latency.conditions import Conditions
from automl_prune.latency.timing import Timing

__all__ = ["Conditions", "Timing"]
