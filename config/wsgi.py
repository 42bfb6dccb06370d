"""WSGI entry point: every request that has an end (pages and API)."""

import gc
import os

from config.processes import die_with_server

die_with_server()  # first, so that not even a process that is still starting is left over

from importlib import import_module  # noqa: E402

from django.conf import settings  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
application = get_wsgi_application()
# Django would load every view at the first request, and somebody would wait for that.
import_module(settings.ROOT_URLCONF)

# Objects made at import live for ever: keeping the collector off them shortens the slowest requests.
gc.collect()
gc.freeze()
