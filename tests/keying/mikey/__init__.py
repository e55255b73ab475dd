"""MIKEY-TICKET: octets, keys, exchanges."""
