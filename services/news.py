"""Events as the JSON that clients get, by streams and webhooks alike."""

from typing import Any

from automl_prune.loop.job import Event


def told(event: Event) -> dict[str, Any]:
    """An event: its ``id``, ``event`` (the kind), ``search_id`` and ``at``, and what happened."""
    head = {"id": event.id, "event": event.kind.value, "search_id": event.search_id, "at": event.created_at.isoformat()}
    return {**head, **event.data}
