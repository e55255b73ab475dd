"""The contracts: one ``.proto`` per N-service; the message code is generated at build."""
