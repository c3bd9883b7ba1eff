"""What each ATen operation does to channel ids, one file per kind of operation; a new file registers itself."""

import importlib
import pkgutil

from automl_prune.architecture.rules.base import ON_WEIGHTS, RULES, SAME_SHAPE, Call, Graph, apply_rule

for _found in pkgutil.iter_modules(__path__, __name__ + "."):
    importlib.import_module(_found.name)

__all__ = ["ON_WEIGHTS", "RULES", "SAME_SHAPE", "Call", "Graph", "apply_rule"]
