"""Celery names of what has to happen to sessions without anybody asking."""

from celery import shared_task

from visa.accounts import sign_ins


@shared_task(name="visa.accounts.end_overdue")
def end_overdue() -> None:
    """End the sessions whose time is over. The store refuses them anyway; this tells listeners and clears the rows."""
    sign_ins.end_overdue()
