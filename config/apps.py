"""Makes Celery's application known to every Django process: `current_app` publishes to nowhere without it."""

from django.apps import AppConfig


class RuntimeConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        import config.celery  # noqa: F401  (only now: it reads the settings)
