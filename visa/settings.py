"""Every Django setting, from the one value `visa.environment.read` makes. Nothing else reads os.environ."""

import os
import secrets
from pathlib import Path

import django_stubs_ext
from celery.schedules import crontab

from visa import environment

# Django's generic classes can be written with their types (ModelAdmin[Flavour]) only after this.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
ENVIRONMENT = environment.read(os.environ)
SITE = ENVIRONMENT.site

# A process that serves no pages signs nothing; it gets a key that nobody knows and that dies with it.
SECRET_KEY = ENVIRONMENT.signing_key or secrets.token_urlsafe(50)
DEBUG = SITE.debug
# Machines may know the site by a name of their own; who may do what is no matter of names.
ALLOWED_HOSTS = sorted({SITE.host, ENVIRONMENT.guests.host})
CSRF_TRUSTED_ORIGINS = [SITE.url]

INSTALLED_APPS = [
    "visa.accounts.apps.AdministrationConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "visa.static.PartsConfig",
    "channels",
    "csp",
    "drf_spectacular",
    "rest_framework",
    "visa.audit.apps.AuditConfig",
    "visa.outbox",
    "visa.accounts",
    "quotas",
    "experiments",
    "instances",
]

MIDDLEWARE = [
    # Outermost, so that errors and static files carry their headers too.
    "visa.responses.EdgeMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "visa.responses.RefusalMiddleware",
]

ROOT_URLCONF = "visa.urls"
ASGI_APPLICATION = "visa.asgi.application"
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
                "visa.responses.site",
            ],
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": ENVIRONMENT.database.host,
        "PORT": ENVIRONMENT.database.port,
        "NAME": ENVIRONMENT.database.name,
        "USER": ENVIRONMENT.database.user,
        "PASSWORD": ENVIRONMENT.database.password,
        "CONN_MAX_AGE": 0,
        "OPTIONS": {"connect_timeout": 5, "application_name": f"visa-{ENVIRONMENT.process}"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = ENVIRONMENT.redis_url
# In the process, never in Redis: Django's Redis cache unpickles what it reads, and what is kept decides who one is.
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL], "prefix": "visa"},
    }
}

# Nudges, not truth (durability: no step lives only in a queue): JSON only, no results, nothing kept for long.
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {"instances.*": {"queue": "cloud"}}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Nobody waits for a broker that is away or hangs: the row is the promise, the nudge only makes it faster.
_BROKER_SECONDS = 2.0 if ENVIRONMENT.process is environment.Process.WORKER else 0.5
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 300,
    "socket_connect_timeout": _BROKER_SECONDS,
    "socket_timeout": _BROKER_SECONDS,
    # one attempt: without a number kombu goes on until it succeeds
    "max_retries": 0,
}
CELERY_TASK_PUBLISH_RETRY = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULE = {
    "end-overdue-sessions": {"task": "visa.accounts.end_overdue", "schedule": 60.0, "options": {"expires": 60.0}},
    "seal-audit": {"task": "visa.audit.keep", "schedule": 10.0, "options": {"expires": 10.0}},
    "verify-audit": {
        "task": "visa.audit.verify",
        "schedule": crontab(hour="3", minute="17"),
        "options": {"expires": 3600.0},
    },
    "advance-due": {"task": "instances.advance_due", "schedule": 5.0, "options": {"expires": 5.0}},
    # Asks whether it is time; the last sweep's row and a lock decide that, for workers and reconcilers together.
    "sweep": {"task": "instances.sweep", "schedule": 15.0, "options": {"expires": 15.0}},
    "compare-allowances": {"task": "instances.compare_allowances", "schedule": 60.0, "options": {"expires": 60.0}},
    "send-due": {"task": "visa.outbox.send_due", "schedule": 15.0, "options": {"expires": 15.0}},
    "forget-sent": {"task": "visa.outbox.forget_old", "schedule": 3600.0, "options": {"expires": 600.0}},
}

# Without a mail server Django's own would be this host's: `visa.outbox.mail` sends nothing then.
MAIL = ENVIRONMENT.mail
EMAIL_TIMEOUT = 10  # seconds for each exchange; `visa.outbox.sending.LEASE` holds six of them
if MAIL is not None:
    EMAIL_HOST = MAIL.host
    EMAIL_PORT = MAIL.port
    EMAIL_HOST_USER = MAIL.user
    EMAIL_HOST_PASSWORD = MAIL.password
    EMAIL_USE_TLS = MAIL.tls is environment.MailTls.STARTTLS
    EMAIL_USE_SSL = MAIL.tls is environment.MailTls.TLS
    DEFAULT_FROM_EMAIL = MAIL.sender

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["visa.accounts.oidc.Backend"]
LOGIN_URL = "accounts:sign-in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"

SESSION_ENGINE = "visa.accounts.sessions"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "visa.responses.csrf_failure"
if SITE.secure:
    SESSION_COOKIE_NAME = "__Host-visa-session"
    CSRF_COOKIE_NAME = "__Host-visa-csrf"
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = False  # the front proxy redirects; a health check must not be
    SECURE_HSTS_SECONDS = 31536000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = False
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
else:
    SESSION_COOKIE_NAME = "visa-session"
    CSRF_COOKIE_NAME = "visa-csrf"

# The front proxy redirects to https, so that a health check need not (W008); a facility's other subdomains and the
# browsers' preload list are not this platform's to decide about (W005, W021).
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]

SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "manifest-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "object-src": ["'none'"],
    }
}

DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 200
FILE_UPLOAD_HANDLERS: list[str] = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("fr", "Français"), ("de", "Deutsch")]
# What a browser asks for, unless its reader chose; no script needs to know it.
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_SECURE = SITE.secure
LANGUAGE_COOKIE_NAME = "__Host-visa-language" if SITE.secure else "visa-language"
LOCALE_PATHS = [BASE_DIR / "visa" / "locale"]
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "/static/"
WHITENOISE_ALLOW_ALL_ORIGINS = False  # no other site needs our parts
STATIC_ROOT = Path(SITE.static_root or BASE_DIR / ".visa" / "static")
STATICFILES_DIRS = [
    BASE_DIR / "visa" / "static",
    ("novnc", BASE_DIR / "visa" / "frontend" / "node_modules" / "@novnc" / "novnc"),
    ("htmx", BASE_DIR / "visa" / "frontend" / "node_modules" / "htmx.org" / "dist"),
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "visa.static.ModuleStorage"},
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "visa.accounts.bearer.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["visa.rest.JSONBodyParser"],
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "visa.rest.AlwaysJSON",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "visa.responses.exception_handler",
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 100,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {"TITLE": "VISA", "VERSION": "1", "SERVE_INCLUDE_SCHEMA": False}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "visa.logs.LineFormatter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
