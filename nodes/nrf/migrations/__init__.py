"""The tables of the NRF over its releases, one step a file (docs/store.md)."""
