"""NRF: the registry of network functions and the OAuth 2.0 authorization server.

Offers Nnrf_NFManagement, Nnrf_NFDiscovery and Nnrf_AccessToken (TS 29.510); consumes nothing. Implements
TS 33.501 13.3 and 13.4.1 as TS 33.328 Annex P takes them over (assumed).
"""
