"""A store in memory: for searches that run inside one process, and for tests. Forgets everything with its process."""

from automl_prune.storage.memory.driving import Driving
from automl_prune.storage.memory.orders import Orders
from automl_prune.storage.memory.queries import Queries
from automl_prune.storage.memory.trials import Trials

__all__ = ["MemoryStore"]


class MemoryStore(Orders, Queries, Driving, Trials):
    """Keeps searches in memory; safe to share between threads, and otherwise the same as a database."""
