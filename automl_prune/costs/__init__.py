"""What a candidate costs, from its widths alone."""

from automl_prune.costs.closed_form import CONVENTION, METRICS, CostModel
from automl_prune.costs.kept import cost_model

__all__ = ["CONVENTION", "METRICS", "CostModel", "cost_model"]
