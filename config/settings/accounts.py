"""Signing in: django-allauth, password rules, two-factor codes, mail.

Mail goes to the log until METERBOOK_SMTP_URL names a server (`smtp://user:password@host:587`, or `smtps://` for TLS
from the first byte). Passwords are hashed with Argon2 (`PASSWORD_HASHERS` in `base`).
"""

from urllib.parse import unquote, urlsplit

from config import env

# How people reach this installation: the beginning of the links in mails.
PUBLIC_URL = env.text("METERBOOK_PUBLIC_URL", f"http://127.0.0.1:{env.integer('PORT', 8000)}").rstrip("/")
# False: only invited people can make an account.
IS_SIGNUP_OPEN = env.boolean("METERBOOK_OPEN_SIGNUP", True)

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

ACCOUNT_ADAPTER = "accounts.sign_in.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_SIGNUP_FORM_CLASS = "accounts.sign_in.SignupForm"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = env.text("METERBOOK_EMAIL_VERIFICATION", "optional")  # mandatory | optional | none
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = True
# Per address ("ip") and per account ("key"), counted in Redis; what is not named keeps allauth's own limit.
ACCOUNT_RATE_LIMITS = {
    "login": "30/m/ip",
    "login_failed": "10/m/ip,5/5m/key",
    "signup": "20/m/ip",
    "reset_password": "20/m/ip,5/m/key",
}
# How many proxies stand before the server and write X-Forwarded-For; 0 believes none of it.
ALLAUTH_TRUSTED_PROXY_COUNT = env.integer("METERBOOK_TRUSTED_PROXIES", 0)

MFA_ADAPTER = "accounts.sign_in.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = "Meterbook"
# Typed with the seconds running out: one step of tolerance to either side.
MFA_TOTP_TOLERANCE = 1

DEFAULT_FROM_EMAIL = env.text("METERBOOK_MAIL_FROM", "Meterbook <meterbook@localhost>")
SERVER_EMAIL = DEFAULT_FROM_EMAIL

_smtp = urlsplit(env.text("METERBOOK_SMTP_URL", ""))
EMAIL_BACKEND = (
    "django.core.mail.backends.smtp.EmailBackend"
    if _smtp.hostname
    else "django.core.mail.backends.console.EmailBackend"
)
EMAIL_HOST = _smtp.hostname or "localhost"
EMAIL_PORT = _smtp.port or 587
EMAIL_HOST_USER = unquote(_smtp.username or "")
EMAIL_HOST_PASSWORD = unquote(_smtp.password or "")
EMAIL_USE_SSL = _smtp.scheme == "smtps"
EMAIL_USE_TLS = bool(EMAIL_HOST_USER) and not EMAIL_USE_SSL
EMAIL_TIMEOUT = 20
