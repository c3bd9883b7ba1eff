import logging

import pytest
from sqlalchemy.exc import OperationalError

from services.outages import Outages

AWAY = OperationalError("SELECT secret", {}, Exception("no such socket"))


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages(logging.getLogger("test"), "the store")
    with caplog.at_level(logging.INFO):
        outages.answered()
        for _ in range(100):
            outages.failed(AWAY)
        outages.answered()
        outages.answered()
    assert caplog.messages == [
        "the store does not answer (OperationalError: (builtins.Exception) no such socket.) Trying again until it does.",
        "the store answers again",
    ]
    assert not any(record.exc_info for record in caplog.records)


def test_what_nobody_expects_is_told_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages(logging.getLogger("test"), "the store")
    outages.failed(AWAY)
    outages.failed(KeyError("a mistake of ours"))
    assert caplog.messages[1] == "the store failed; trying again"
    assert caplog.records[1].exc_info is not None
