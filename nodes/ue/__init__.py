"""The software UE: SIP user agent, IMS AKA client and media end, driven over gRPC by the lab.

Reference points: Gm towards its P-CSCF (SIP over TLS or UDP), media towards the IMS-AGW of its access, HTTPS towards
the BSF (Ub) and the KMS of its home domain. Offers ``ims.ue_control.v1.UeControl``; consumes none but the NRF.
Implements the UE's side of TS 33.203 (AKA), TS 33.220 (GBA), TS 24.229 5.1 (registration, sessions) and TS 33.328
6.2.3 and 7.1 to 7.4 (announcement, e2ae and e2e SDES, e2e KMS with MIKEY-TICKET).
"""
