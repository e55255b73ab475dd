"""IMS access gateway: the media edge that the IMS-ALG commands over Iq (TS 23.334, TS 33.328 4.2, 7.2.1, 7.3.1).

Reference points: Iq (gRPC, served), media on the access and the core side. Services offered: `nimsagw-iq`, and for the
lab's operator `nimsagw-capture`. Services consumed: the NRF's. The node makes the keys it sends with, ends SRTP towards
the UE, forwards plain RTP into the core, and passes end-to-end media on untouched. Contexts live until they are
released, until their IMS-ALG is silent as well as their media, or until the gateway restarts, which a new epoch tells.
"""
