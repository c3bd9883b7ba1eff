"""What a plug-in must hold, as pytest classes: subclass one, give it its fixture, and run it with your tests."""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.store{part}" for part in ("_kit", "_searches", "_trials")))

from automl_prune.testing.store import StoreContract  # noqa: E402  (pytest has to know before the import)

__all__ = ["StoreContract"]
