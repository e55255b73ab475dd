"""Signalling: SIP, SDP, IMS AKA and security agreement, free of I/O where they can be."""
