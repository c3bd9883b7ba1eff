"""What Python's garbage collector looks at, in processes that run for long."""

import gc


def spare_what_is_here() -> None:
    """Leave out of all later collections what lives by now: the half million objects of torch, which stay for good.

    A service that makes many objects for each answer collects often, and would walk over them each time.
    """
    gc.collect()
    gc.freeze()
