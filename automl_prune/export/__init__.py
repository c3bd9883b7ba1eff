"""What leaves the house: the small network from its architecture JSON."""

from automl_prune.export.architecture_json import load_architecture

__all__ = ["load_architecture"]
