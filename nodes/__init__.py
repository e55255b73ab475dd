"""The network functions; each folder is one, and they meet only over the wire."""
