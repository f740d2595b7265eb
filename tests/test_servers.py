"""The servers that tests stand on are real, and come back with what they had."""

import psycopg
import redis as client

from tests import servers


def test_redis_is_there_and_comes_back_after_a_kill() -> None:
    with servers.redis() as server:
        with client.Redis.from_url(server.url) as asking:
            assert asking.ping()
        server.kill()
        server.start()
        with client.Redis.from_url(server.url) as asking:
            assert asking.dbsize() == 0


def test_postgres_keeps_its_rows_over_a_kill() -> None:
    with servers.postgres() as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept (n integer)")
            connection.execute("INSERT INTO kept VALUES (7)")
        server.kill()
        server.start()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]
