"""API keys: who may do what, for whom, and how much of it."""

import hmac
import logging
import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from automl_prune.errors import NotFoundError, UserError
from automl_prune.loop.audit import HERE, Action, Origin
from automl_prune.loop.job import DEFAULT_TENANT, HIGHEST_PRIORITY
from automl_prune.storage import rules, tokens
from automl_prune.storage.database import Database
from automl_prune.storage.tables import ApiKeyRow
from automl_prune.storage.trail import Trail

log = logging.getLogger(__name__)

USED_SECONDS = 60.0
"""``last_used_at`` is this old at most before a use is written again."""

_LONGEST = 200


class Scope(StrEnum):
    """What a key may be allowed; ``admin`` allows everything of its own tenant, and so not ``metrics``, which are of all."""

    READ = "search:read"
    WRITE = "search:write"
    DEVICES = "devices"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True)
class KeyLimits:
    """How much a key may have at once; None: no limit but the service's own.

    They hold for what it ordered even when it is revoked or has expired.

    Attributes:
        queued: Searches that it ordered and that wait or are paused.
        running: Searches that it ordered and that are driven.
        trials: ``trials.max`` of one search.
        parallel: ``trials.parallel`` of one search.
        priority: Of its searches, 0 to 100; above 0 they go before those of all other tenants, so that it takes leave.
    """

    queued: int | None = None
    running: int | None = None
    trials: int | None = None
    parallel: int | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        if self.priority > HIGHEST_PRIORITY:
            raise UserError(f"The limit priority is at most {HIGHEST_PRIORITY}, not {self.priority}.")
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < 2**31:
                raise UserError(f"The limit {name} is a count from 0 on, not {value}.")


@dataclass(frozen=True)
class ApiKey:
    """A key, without its token; ``hint`` are the token's last four characters."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[Scope]
    hint: str
    limits: KeyLimits
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether the key may do what takes this scope."""
        return scope in self.scopes or (Scope.ADMIN in self.scopes and scope is not Scope.METRICS)


class ApiKeys:
    """The keys of a database; several processes may share it.

    Args:
        database: Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._trail = database, Trail(database)
        self._some = False

    def create(
        self,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        scopes: Collection[Scope] = (Scope.READ, Scope.WRITE),
        expires_in: timedelta | None = None,
        limits: KeyLimits | None = None,
        origin: Origin = HERE,
    ) -> tuple[ApiKey, str]:
        """A new key and its token, which nobody can find out again; raises UserError."""
        if not scopes:
            raise UserError(f"A key needs a scope: {', '.join(Scope)}.")
        if expires_in is not None and expires_in <= timedelta():
            raise UserError("A key expires after some time, not before it is made.")
        token = tokens.new_token()
        lasts = None if expires_in is None else expires_in.total_seconds()
        return self._add(token, name, tenant, scopes, lasts, limits or KeyLimits(), origin), token

    def adopt(self, token: str, name: str, *, scopes: Collection[Scope], origin: Origin = HERE) -> ApiKey:
        """The key of a token that was made elsewhere, added if it was never here; one that was revoked stays so.

        Raises:
            UserError: It is no token; what it is, is not repeated.
        """
        if not tokens.is_token(token):
            raise UserError("This is no API key: they are made, and look as they do, by 'automl-prune keys token'.")
        if (known := self._of_token(token)) is not None:
            return known
        try:
            return self._add(token, name, DEFAULT_TENANT, scopes, None, KeyLimits(priority=HIGHEST_PRIORITY), origin)
        except IntegrityError:  # another process had it first
            known = self._of_token(token)
            assert known is not None
            return known

    def _of_token(self, token: str) -> ApiKey | None:
        """The token's key, valid or not."""
        with self._database.read() as session:
            row = session.scalar(select(ApiKeyRow).where(ApiKeyRow.digest == tokens.digest(token)))
            return None if row is None else _key(row)

    def _add(
        self,
        token: str,
        name: str,
        tenant: str,
        scopes: Collection[Scope],
        lasts: float | None,
        limits: KeyLimits,
        origin: Origin,
    ) -> ApiKey:
        with self._database.write(through=True) as session:
            row = ApiKeyRow(
                id=f"key_{secrets.token_hex(8)}",
                tenant=_named("tenant", tenant),
                name=_named("name", name),
                scopes=sorted({Scope(s).value for s in scopes}),
                digest=tokens.digest(token),
                hint=tokens.hint(token),
                limits={k: v for k, v in asdict(limits).items() if v is not None},
                created_at=self._database.now(),
                expires_at=None if lasts is None else self._database.now(lasts),
            )
            session.add(row)
            self._trail.note(session, Action.CREATE_KEY, row.tenant, row.id, ", ".join(row.scopes), origin)
            session.flush()
            session.refresh(row)
            return _key(row)

    def find(self, token: str) -> ApiKey | None:
        """The key of a token that is valid now, whose use is noted; None for any other."""
        if not tokens.is_token(token):
            return None
        digest = tokens.digest(token)
        query = select(ApiKeyRow, or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < self._long_ago())).where(
            ApiKeyRow.digest == digest, *self._valid()
        )
        with self._database.read() as session:
            found = session.execute(query).one_or_none()
            # an index found it by its digest already; the comparison that counts takes the same time for any
            if found is None or not hmac.compare_digest(found[0].digest, digest):
                return None
            key, is_due = _key(found[0]), found[1]
        if is_due:
            self._note_use(key.id)
        return key

    def valid(self, key_ids: Collection[str]) -> set[str]:
        """Those of these keys that are valid now."""
        with self._database.read() as session:
            return set(session.scalars(select(ApiKeyRow.id).where(ApiKeyRow.id.in_(key_ids), *self._valid())))

    def exist(self) -> bool:
        """Whether a key was ever made, valid or not; from then on, nobody gets in without one."""
        if not self._some:
            with self._database.read() as session:
                self._some = session.scalar(select(ApiKeyRow.id).limit(1)) is not None
        return self._some

    def known(self, *, tenant: str | None = None) -> Sequence[ApiKey]:
        """All keys, or a tenant's, oldest first."""
        query = select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id)
        if tenant is not None:
            query = query.where(ApiKeyRow.tenant == tenant)
        with self._database.read() as session:
            return [_key(row) for row in session.scalars(query)]

    def revoke(self, key_id: str, *, tenant: str | None = None, origin: Origin = HERE) -> ApiKey:
        """Let a key open nothing any more; again is no error. Raises NotFoundError."""
        with self._database.write(through=True) as session:
            row = session.get(ApiKeyRow, rules.text(key_id))
            if row is None or (tenant is not None and row.tenant != tenant):
                raise NotFoundError(f"There is no key {key_id[:80]!r}.")
            if row.revoked_at is None:
                row.revoked_at = self._database.now()
                self._trail.note(session, Action.REVOKE_KEY, row.tenant, row.id, "revoked", origin)
            session.flush()
            session.refresh(row)
            return _key(row)

    def running_limits(self) -> dict[str, int]:
        """How many searches that a key ordered may run at once, by its id; keys without such a limit are left out."""
        with self._database.read() as session:
            found = session.execute(select(ApiKeyRow.id, ApiKeyRow.limits)).all()
        return {key_id: limits["running"] for key_id, limits in found if "running" in limits}

    def _valid(self) -> tuple[ColumnElement[bool], ...]:
        expires = ApiKeyRow.expires_at
        return ApiKeyRow.revoked_at.is_(None), or_(expires.is_(None), expires > self._database.now())

    def _long_ago(self) -> Any:
        return self._database.now(-USED_SECONDS)

    def _note_use(self, key_id: str) -> None:
        """Write ``last_used_at``, once for all who try at the same moment; that it cannot be written keeps nobody out."""
        long_ago = or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < self._long_ago())
        change = update(ApiKeyRow).where(ApiKeyRow.id == key_id, long_ago).values(last_used_at=self._database.now())
        try:
            with self._database.write() as session:
                session.execute(change.execution_options(synchronize_session=False))
        except SQLAlchemyError:
            log.warning("the use of key %s could not be noted", key_id)


def _key(row: ApiKeyRow) -> ApiKey:
    known = {field.name for field in fields(KeyLimits)}
    return ApiKey(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        scopes=frozenset(Scope(s) for s in row.scopes if s in set(Scope)),
        hint=row.hint,
        limits=KeyLimits(**{k: v for k, v in row.limits.items() if k in known}),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _named(what: str, text: str) -> str:
    if not 0 < len(text) <= _LONGEST or not text.isprintable():
        raise UserError(f"A key's {what} has 1 to {_LONGEST} printable characters.")
    return rules.text(text)
