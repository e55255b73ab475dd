"""How the packets of one session are protected: SRTP contexts per direction, or none at all."""

from collections.abc import Callable

from keying.sdes import CryptoAttribute
from media.srtp import DEFAULT_GRACE, MasterKeySet, SrtpContext


class Protection:
    """The SRTP state of both directions. `clock` gives seconds.

    Once SRTP was asked for (`required`), a direction without a key carries nothing: never plain by mistake.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.required = False
        self.sending: SrtpContext | None = None
        self.receiving: SrtpContext | None = None

    def start(self, send: CryptoAttribute | None, receive: CryptoAttribute | None) -> None:
        """Begin new contexts with ROC 0; None where the key is not known yet (RFC 4568 6.4, 7.1.4)."""
        self.required = True
        self.sending = SrtpContext.from_crypto(send, clock=self._clock) if send else None
        self.receiving = SrtpContext.from_crypto(receive, clock=self._clock) if receive else None

    def stop(self) -> None:
        """Go on without SRTP, as an offer/answer agreed on RTP/AVP does."""
        self.required = False
        self.sending = self.receiving = None

    def start_sending(self, crypto: CryptoAttribute) -> None:
        """Begin a new sending context with ROC 0: this side changed its address (RFC 4568 7.1.4)."""
        self.required = True
        self.sending = SrtpContext.from_crypto(crypto, clock=self._clock)

    def start_receiving(self, crypto: CryptoAttribute) -> None:
        """Begin a new receiving context with ROC 0: the far end changed its address (RFC 4568 7.1.4)."""
        self.required = True
        self.receiving = SrtpContext.from_crypto(crypto, clock=self._clock)

    def rekey_sending(self, crypto: CryptoAttribute) -> None:
        """Send with a new key and keep ROC and SRTCP index: same address (RFC 4568 7.1.4, RFC 3711 3.3.1)."""
        if self.sending is None:
            self.start_sending(crypto)
        else:
            self.sending.rekey_to(MasterKeySet.from_crypto(crypto))

    def rekey_receiving(self, crypto: CryptoAttribute, grace: float = DEFAULT_GRACE) -> None:
        """Take packets under a new key, and under the former one for `grace` seconds; ROC and SRTCP index go on."""
        if self.receiving is None:
            self.start_receiving(crypto)
        else:
            self.receiving.rekey_to(MasterKeySet.from_crypto(crypto), grace=grace)
