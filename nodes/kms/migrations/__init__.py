"""The tables of the KMS over its releases, one step a file (docs/store.md)."""
