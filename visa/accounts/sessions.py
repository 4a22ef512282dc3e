"""The session store: Django's rows, with an end. A session lives 12 hours at most, and 1 hour without a request.

Here and not in a middleware, so that pages, the API and websockets all see a session end at the same moment. The row's
`expire_date` is the idle end; the absolute end stands in the session itself. The cookie carries no end of its own.
"""

from datetime import datetime, timedelta
from typing import Any

from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.utils import timezone
from typing_extensions import override

#: how long a session may live in all, and how long without a request
LIFE = timedelta(hours=12)
IDLE = timedelta(hours=1)
#: the idle end is moved at most this often: a session that is only read must not write its row at every request
GRAIN = timedelta(minutes=5)

_ENDS = "visa_ends_at"


def _idle_end(data: dict[str, Any], now: datetime) -> datetime:
    ends_at = data.get(_ENDS)
    idle_end = now + IDLE
    return idle_end if ends_at is None else min(idle_end, datetime.fromisoformat(ends_at))


class SessionStore(DatabaseStore):
    """A session that ends by itself."""

    def begin(self) -> tuple[datetime, datetime]:
        """Start the absolute life of this session now; its (beginning, end)."""
        began_at = timezone.now()
        self[_ENDS] = (began_at + LIFE).isoformat()
        return began_at, began_at + LIFE

    @override
    def create_model_instance(self, data: dict[str, Any]) -> Any:
        row = super().create_model_instance(data)
        row.expire_date = _idle_end(data, timezone.now())
        return row

    @override
    def load(self) -> dict[str, Any]:
        row = self._get_session_from_db()  # type: ignore[attr-defined] # missing in the stubs
        if row is None:
            return {}
        data = self.decode(row.session_data)
        idle_end = _idle_end(data, timezone.now())
        if idle_end - row.expire_date > GRAIN:
            # the condition keeps a session that ended meanwhile from coming back
            self.model.objects.filter(pk=row.pk, expire_date=row.expire_date).update(expire_date=idle_end)
        return data

    @override
    async def aload(self) -> dict[str, Any]:
        row = await self._aget_session_from_db()  # type: ignore[attr-defined] # missing in the stubs
        if row is None:
            return {}
        data = self.decode(row.session_data)
        idle_end = _idle_end(data, timezone.now())
        if idle_end - row.expire_date > GRAIN:
            await self.model.objects.filter(pk=row.pk, expire_date=row.expire_date).aupdate(expire_date=idle_end)
        return data
