"""Alembic's environment and the schema's history; used through automl_prune.storage.migrate."""
