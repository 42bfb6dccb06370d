"""PostgreSQL (`DATABASE_URL`) and Redis (`REDIS_URL`)."""

from typing import Any

from psycopg.conninfo import conninfo_to_dict

from config import env


def database_from_url(url: str) -> dict[str, Any]:
    """Return Django's settings for a libpq URL; connections stay open for the life of a thread."""
    parts = conninfo_to_dict(url)
    options = {key: value for key, value in parts.items() if key not in {"host", "port", "user", "password", "dbname"}}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.get("dbname", "meterbook"),
        "USER": parts.get("user", "postgres"),
        "PASSWORD": parts.get("password", ""),
        "HOST": parts.get("host", ""),
        "PORT": str(parts.get("port", "")),
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }


DATABASES = {"default": database_from_url(env.text("DATABASE_URL"))}
REDIS_URL = env.text("REDIS_URL")

CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}
