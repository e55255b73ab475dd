"""The media plane: RTP, RTCP, SRTP, G.711, DTMF, the software UE's media end and the access gateway's relay.

Engines here are sans-IO: octets and a clock in, octets and events out. Only `media.session`'s endpoint and
`media.relay` touch sockets. Sources: RFC 3550, 3551, 3711, 4733, 5761, 6188, 7714, 7983; TS 33.328 Annex C.
"""
