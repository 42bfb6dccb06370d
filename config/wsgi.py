"""WSGI entry point: every request that has an end (pages and API)."""

import gc
import os

from config.processes import die_with_server

die_with_server()  # first, so that not even a process that is still starting is left over

from django.core.wsgi import get_wsgi_application  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
application = get_wsgi_application()

# Objects made at import live for ever: keeping the collector off them shortens the slowest requests.
gc.collect()
gc.freeze()
