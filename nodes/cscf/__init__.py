"""I-CSCF and S-CSCF in one process: registrar, authentication and routing of a home network (TS 23.228, TS 24.229).

Reference points Mw (P-CSCF and other home networks), ISC (application servers) and N70 (HSS). Implements the S-CSCF's
part of registration (TS 24.229 5.4.1), of the originating and terminating legs (5.4.3) and the I-CSCF's location
query (5.3); RFC 3261 10 and 16, RFC 3327, RFC 3608, RFC 3325, RFC 7315, RFC 5626 6, RFC 3310, RFC 4169, RFC 3680.
"""
