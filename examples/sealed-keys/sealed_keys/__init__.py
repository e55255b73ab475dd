"""sealed-keys: the media security mode e2e-psk, SDES keys under a key that the users share."""
