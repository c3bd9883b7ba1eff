import pytest

from automl_prune.execution import InlineExecutor
from automl_prune.testing.executor import ExecutorContract


class TestInlineExecutor(ExecutorContract):
    has_workers = False

    @pytest.fixture
    def executor(self) -> InlineExecutor:
        return InlineExecutor()


def test_it_says_what_it_is() -> None:
    assert InlineExecutor().describe() == {"kind": "inline", "workers": 1, "dashboard": None, "actors": []}
