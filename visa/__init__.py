"""The project. Hands on the Celery app, so that `@shared_task` finds it."""

from visa.celery import app as celery_app

__all__ = ["celery_app"]
