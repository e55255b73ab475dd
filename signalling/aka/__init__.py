"""IMS AKA and SIP digest: MILENAGE, authentication vectors, digest arithmetic (TS 33.203, RFC 3310, RFC 4169)."""
