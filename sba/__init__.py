"""The network function framework: identity, mutual TLS, OAuth 2.0, NRF client, gRPC, tracing, store.

Restricting the TLS 1.2 cipher suites to ECDHE with an AEAD (TS 33.210 6.2, assumed values) has to
happen before gRPC is loaded, so it happens here.
"""

import os

os.environ.setdefault(
    "GRPC_SSL_CIPHER_SUITES",
    ":".join(
        (
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
        )
    ),
)
