"""What holds for every test."""

import signal


def pytest_configure() -> None:
    """Lets processes that tests start be interrupted, even where the shell has turned that off.

    What is started in the background inherits an ignored SIGINT, and so do its children.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
