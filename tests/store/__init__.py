"""Stores: migrations, PostgreSQL, several instances of one store."""
