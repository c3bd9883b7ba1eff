"""The behaviour of a Store.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self) -> Store:
            return MyStore(...)

The fixture gives an empty store to each test.
"""

from automl_prune.testing.store_attempts import AttemptContract
from automl_prune.testing.store_audit import AuditContract
from automl_prune.testing.store_events import EventContract
from automl_prune.testing.store_orders import OrderContract
from automl_prune.testing.store_searches import SearchContract
from automl_prune.testing.store_trials import TrialContract


class StoreContract(SearchContract, OrderContract, AttemptContract, TrialContract, EventContract, AuditContract):
    """What a store does, whatever it is made of; a subclass gives the fixture ``store``."""
