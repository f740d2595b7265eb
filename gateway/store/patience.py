"""PostgreSQL's connections that give up: one that is held says nothing, and would be waited for.

The kernel of a machine whose server process stands still answers for it, so that no timeout of TCP
ever runs out.
"""

import time

import psycopg
from psycopg import errors
from psycopg.abc import RV, PQGen


def patient_connection(seconds: float) -> type[psycopg.Connection]:
    """Connections that are closed, with OperationalError, when an answer takes longer than that."""

    class Patient(psycopg.Connection):
        def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
            began = time.monotonic()
            try:
                return super().wait(gen, interval, seconds if timeout is None else timeout)
            except errors.Error as error:
                if timeout is None and time.monotonic() - began >= seconds:
                    self.pgconn.finish()
                    raise errors.OperationalError(f"no answer within {seconds:g} s") from error
                raise

    return Patient
