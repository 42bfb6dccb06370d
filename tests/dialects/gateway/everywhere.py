"""Searching everything that is stored for a text: every column of every table, and every key of Redis."""

from __future__ import annotations

from typing import Any

from django.db import connection
from psycopg.sql import SQL, Composable, Identifier

from common.redis import redis_client

TEXTS = {"text", "character varying", "character", "json", "jsonb", "ARRAY", "USER-DEFINED", "bytea"}

_COLUMNS = """
SELECT table_name, array_agg(column_name::text ORDER BY column_name), array_agg(data_type::text ORDER BY column_name)
FROM information_schema.columns
WHERE table_schema = 'public' AND data_type = ANY(%s)
GROUP BY table_name
"""


def find_everywhere(*texts: str) -> set[str]:
    """Return `text in table.column` and `text in redis key` for every place that holds one of the texts."""
    return {
        f"{text} in {place}" for text in texts for place in (*_find_in_tables(text), *_find_in_redis(text.encode()))
    }


def _find_in_tables(text: str) -> list[str]:
    """Pass over every table once."""
    places = []
    with connection.cursor() as cursor:
        cursor.execute(_COLUMNS, [list(TEXTS)])
        tables = cursor.fetchall()
        assert sum(len(columns) for _, columns, _ in tables) > 100  # else something is wrong with the search
        for table, columns, kinds in tables:
            found = SQL(", ").join(
                SQL("bool_or(strpos({}, %(text)s) > 0)").format(_as_text(column, kind))
                for column, kind in zip(columns, kinds, strict=True)
            )
            cursor.execute(SQL("SELECT {} FROM {}").format(found, Identifier(table)), {"text": text})
            places += [f"{table}.{column}" for column, is_in in zip(columns, cursor.fetchone(), strict=True) if is_in]
    return places


def _as_text(column: str, kind: str) -> Composable:
    return SQL("encode({}, 'escape')" if kind == "bytea" else "{}::text").format(Identifier(column))


def _find_in_redis(text: bytes) -> list[str]:
    client: Any = redis_client()
    found = []
    for key in client.scan_iter():
        match client.type(key):
            case b"stream":
                content = client.xrange(key)
            case b"list":
                content = client.lrange(key, 0, -1)
            case b"hash":
                content = client.hgetall(key)
            case b"zset":
                content = client.zrange(key, 0, -1)
            case b"set":
                content = client.smembers(key)
            case _:
                content = client.get(key)
        if text in key or text in repr(content).encode():
            found.append(f"redis {key.decode(errors='replace')}")
    return found
