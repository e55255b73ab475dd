"""KMS: key management service of e2e media security (TS 33.328 6.2.3, RFC 6043).

Gives tickets to initiators and the keys of a ticket to its responders. UEs reach it over HTTPS (Annex A; form of the
requests assumed), authenticated with a key from the generic bootstrapping architecture (Zn to the BSF). Offers
Nkms_Resolve to the KMSs of other domains (6.2.3.8, B.2.3; transport assumed) and Nkms_Control to the operator; consumes
Nbsf_GBA, Nkms_Resolve of other KMSs and the NRF.
"""
