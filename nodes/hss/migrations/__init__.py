"""The tables of the HSS over its releases, one step a file (docs/store.md)."""
