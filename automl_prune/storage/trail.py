"""The audit trail of a database: each entry is written in the transaction of the change it tells of, and stays."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from automl_prune.loop.audit import Action, AuditEntry, Origin
from automl_prune.storage import rules
from automl_prune.storage.database import Database
from automl_prune.storage.ids import new_id
from automl_prune.storage.tables import AuditRow


class Trail:
    """What was changed, by whom; there is nothing here that changes or deletes an entry.

    Args:
        database: Where it is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, session: Session, action: Action, tenant: str, object_id: str, result: str, origin: Origin) -> None:
        """Add an entry to a transaction that makes a change; nothing secret may be in its ``result``."""
        row = AuditRow(id=new_id("audt_"), tenant=tenant, action=action.value, object_id=object_id, result=result)
        row.key_id, row.ip, row.request_id = origin.key_id, origin.ip, origin.request_id
        row.at = self._database.now()
        session.add(row)

    def entries(
        self, *, object_id: str | None = None, limit: int = 50, before: str | None = None, tenant: str | None = None
    ) -> list[AuditEntry]:
        """Entries newest first, of an object or of all; ``before`` is the last id of the previous page."""
        query = select(AuditRow)
        if object_id is not None:
            query = query.where(AuditRow.object_id == rules.text(object_id))
        if tenant is not None:
            query = query.where(AuditRow.tenant == tenant)
        if before is not None:
            query = query.where(AuditRow.id < before)
        with self._database.read() as session:
            return [_entry(row) for row in session.scalars(query.order_by(AuditRow.id.desc()).limit(limit))]


def _entry(row: AuditRow) -> AuditEntry:
    origin = Origin(row.key_id, row.ip, row.request_id)
    return AuditEntry(row.id, row.tenant, Action(row.action), row.object_id, row.result, row.at, origin)
