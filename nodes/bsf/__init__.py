"""BSF: bootstraps keys between UEs and application functions out of AKA (TS 33.220).

Reference points Ub (UE, HTTP digest AKA over TLS, TS 24.109), Zh (HSS) and Zn (NAF). Offers Nbsf_GBA (TS 29.309) to the
KMS of its home domains; consumes Nhss_gbaUEAuthentication and the NRF. One BSF serves a home domain: what it
bootstrapped is known to itself alone.
"""
