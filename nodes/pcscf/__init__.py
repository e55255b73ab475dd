"""P-CSCF with IMS-ALG: the access edge of the IMS.

Reference points: Gm (SIP towards UEs, over UDP, TCP, TLS), Mw (SIP towards I/S-CSCF), Iq (gRPC towards the IMS-AGW).
Services offered: none over gRPC. Services consumed: `nimsagw-iq`, the NRF's.
Clauses: TS 24.229 5.2 and 7.2A.7 (as far as they were at hand), TS 33.203 6.1, 7 and Annex P, RFC 3329, RFC 3327,
RFC 5626 5.2, RFC 3325; TS 33.328 7.1.1, 7.2.1, 7.2.2, 7.3.1, 7.4, 7.5.

`mediasec`, `scheme`, `satable`, `bindings`, `flowtoken` make the registration edge; `ims_alg` decides what
happens to a session's media; `iq` asks the IMS-AGW for it; `session`, `dialogs` and `release` keep what is needed
to give it back; `node` is wiring.
"""
