"""The tables of the P-CSCF over its releases, one step a file (docs/store.md)."""
