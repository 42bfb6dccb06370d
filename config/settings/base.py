"""Settings of every process. Complete and safe; `test` overrides only what a test run needs."""

from config import env
from config.env import BASE_DIR
from config.settings.accounts import *  # noqa: F403  (Django reads settings as module globals)
from config.settings.alerts import *  # noqa: F403
from config.settings.api import *  # noqa: F403
from config.settings.billing import *  # noqa: F403
from config.settings.celery import *  # noqa: F403
from config.settings.database import *  # noqa: F403
from config.settings.gateway import *  # noqa: F403
from config.settings.logging import LOGGING  # noqa: F401
from config.settings.weave import *  # noqa: F403
from config.settings.web import *  # noqa: F403

SECRET_KEY = env.text("METERBOOK_SECRET_KEY")
DEBUG = False

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "config",
    "common",
    "accounts",
    "metering",
    "metering.dialects.influx",
    "metering.dialects.weave",
    "metering.dialects.gateway",
    "usage_reports",
    "billing",
    "alerts",
]

MIDDLEWARE = [
    "common.telemetry.RequestTelemetryMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "common.content_security.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "common.middleware.ApiErrorMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
AUTH_USER_MODEL = "accounts.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATICFILES_DIRS = [BASE_DIR / "static"]

# Of a form. The API's bodies have bounds of their own (`common.bodies`), which count decompressed bytes too.
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
# Holds what the embedded servers and the demo keep.
DATA_DIR = env.data_dir()
