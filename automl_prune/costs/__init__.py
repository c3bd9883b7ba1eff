"""What a candidate costs, from its widths alone."""

from automl_prune.costs.closed_form import CONVENTION, METRICS, CostModel

__all__ = ["CONVENTION", "METRICS", "CostModel"]
