"""MIKEY-TICKET (RFC 6043 over RFC 3830, 4563, 4567) as TS 33.328 profiles it: octets and time in, octets and keys out.

``payloads`` and ``registry`` are the vocabulary, ``codec`` the octets, ``kdf`` and ``cipher`` the derivations,
``policy`` and ``ticket`` the ticket, ``request``, ``transfer``, ``resolve`` and ``update`` the exchanges, ``authority``
the KMS's side of them, ``profile`` every value that 3GPP chose or that we assumed.
"""
