import gc

from services import garbage


def test_what_is_here_is_left_alone_and_what_comes_is_not() -> None:
    try:
        garbage.spare_what_is_here()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < gc.get_freeze_count() / 10
    finally:
        gc.unfreeze()
