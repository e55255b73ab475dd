"""MIKEY-TICKET (RFC 6043 over RFC 3830, 4563, 4567) as TS 33.328 profiles it: octets and time in, octets and keys out.

Vocabulary: ``registry`` (code points), ``payloads`` (values), ``errors``, ``profile`` (every value that 3GPP chose or
that we assumed) and ``profile_values`` (those out of settings). Octets: ``codec`` over ``codec_header``,
``codec_payloads`` and ``codec_wire``. Derivations: ``kdf``, ``cipher``, ``ntp``. Who: ``identity``, ``groups``, ``pk``.
The ticket: ``policy``, ``grant``, ``ticket``. What every message goes through: ``protection``, ``replay``.

The exchanges: ``request`` and ``resolve`` (a user with its KMS, both on ``kmsexchange``), ``authority`` (the KMS's side
of them), ``transfer`` (initiator) and ``accept`` (responder) with ``csmap`` and ``sessions`` for crypto sessions,
``update`` (CSB update). ``origin`` binds a message to what it travels with, ``sealed`` tells which may be passed on;
``describe`` and ``describe_keys`` show messages to people.

docs/mikey.md goes from each clause to its function and test; docs/kms.md through one exchange.
"""
