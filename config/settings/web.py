"""How this installation is reached: host names, the proxy before it, cookies, static files, the stream's address."""

from config import env

ALLOWED_HOSTS = env.names("METERBOOK_ALLOWED_HOSTS", "*")
CSRF_TRUSTED_ORIGINS = env.names("METERBOOK_TRUSTED_ORIGINS")

# Where clients find the streams: a whole URL where a proxy or another host serves them, else another port of ours.
STREAM_URL = env.text("METERBOOK_STREAM_URL", "")
STREAM_PORT = env.integer("METERBOOK_STREAM_PORT", 9000)

# Browsers share a host's cookies among its ports: without the port, two installations would sign each other out.
_port = env.integer("PORT", 8000)
SESSION_COOKIE_NAME = f"meterbook_session_{_port}"
CSRF_COOKIE_NAME = f"meterbook_csrf_{_port}"
# Of who followed a link to a customer's portal.
PORTAL_COOKIE_NAME = f"meterbook_portal_{_port}"

# Only behind a proxy that sets X-Forwarded-Proto itself (docs/deploy): anybody could send the header otherwise.
if env.boolean("METERBOOK_BEHIND_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# WhiteNoise serves the files from the packages and `static/` directly: nothing to collect, nothing to go stale.
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True
