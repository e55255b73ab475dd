"""seed-suite: SRTP with the cipher SEED in counter mode (RFC 5669), for imslab."""
