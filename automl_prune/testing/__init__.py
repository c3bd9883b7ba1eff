"""What a plug-in must hold, as pytest classes: subclass one, give it its fixture, and run it with your tests."""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("executor", "strategy")),
    *(
        f"{__name__}.store_{part}"
        for part in ("kit", "searches", "orders", "attempts", "trials", "events", "audit", "devices")
    ),
)

from automl_prune.testing.executor import ExecutorContract  # noqa: E402
from automl_prune.testing.store import StoreContract  # noqa: E402  (pytest has to know before the import)
from automl_prune.testing.strategy import StrategyContract  # noqa: E402

__all__ = ["ExecutorContract", "StoreContract", "StrategyContract"]
