import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from automl_prune.storage import ids


def decode(search_id: str) -> int:
    value = 0
    for character in search_id.removeprefix("srch_"):
        value = value << 5 | "0123456789abcdefghjkmnpqrstvwxyz".index(character)
    return value


def test_an_id_begins_with_its_time() -> None:
    milliseconds = decode(ids.new_search_id()) >> 80
    assert abs(milliseconds / 1000 - time.time()) < 5


def test_ids_rise_when_the_clock_stands_or_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [ids.new_search_id()]
    now = time.time_ns()
    for clock in (now, now, now, now - 3_600_000_000_000):
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock)
        made.append(ids.new_search_id())
    assert made == sorted(set(made))


def test_threads_never_share_an_id() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ids.new_search_id(), range(2000)))
    assert len(set(made)) == 2000
