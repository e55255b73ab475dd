"""The tables of the software UE over its releases, one step a file (docs/store.md)."""
