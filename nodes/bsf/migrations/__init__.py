"""The tables of the BSF over its releases, one step a file (docs/store.md)."""
