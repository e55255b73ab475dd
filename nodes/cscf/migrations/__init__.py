"""The tables of the CSCF over its releases, one step a file (docs/store.md)."""
