"""HSS: subscribers, authentication vectors, service profiles and the registration flag (TS 23.228, TS 29.562).

Reference points N70 (I-/S-CSCF), N71 (IMS AS) and Zh (BSF). Offers Nhss_imsUEAuthentication,
Nhss_imsUEContextManagement, Nhss_imsSubscriberDataManagement and Nhss_gbaUEAuthentication; consumes the NRF.
Implements the network's part of TS 33.203 6.1 (vectors, resynchronisation) with the sequence number policy of
TS 33.102 Annex C.
"""
