"""Timer values A to N, all derived from T1, T2 and T4, in seconds (RFC 3261 17 and App. A, RFC 6026, RFC 6665)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Timer(Enum):
    """The timers of the transaction machines; values are the letters of the RFCs."""

    A = "A"
    B = "B"
    D = "D"
    E = "E"
    F = "F"
    G = "G"
    H = "H"
    I = "I"  # noqa: E741 - its name in RFC 3261
    J = "J"
    K = "K"
    L = "L"
    M = "M"
    TRYING = "100"
    """When a server transaction sends 100 by itself."""
    CANCELLED = "cancelled"
    """64*T1 after a CANCEL an INVITE client transaction gives up (RFC 3261 9.1)."""


RFC_TIMER_D = 32.0
"""Least Timer D on an unreliable transport, whatever T1 (RFC 6026 8.4)."""
PROXY_TIMER_C = 181.0
"""More than three minutes (RFC 3261 16.6 step 11)."""
TRYING_AFTER = 0.2
"""A 100 is due when the TU has not answered an INVITE in this time (RFC 3261 17.2.1)."""


@dataclass(frozen=True)
class TimerConfig:
    """T1 (round trip estimate), T2 (longest retransmission interval), T4 (life of a message), all in seconds."""

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0
    least_d: float = RFC_TIMER_D
    timer_c: float = PROXY_TIMER_C
    trying_after: float = TRYING_AFTER

    @classmethod
    def core(cls) -> TimerConfig:
        """RFC 3261 values, used between core elements."""
        return cls()

    @classmethod
    def access(cls) -> TimerConfig:
        """IMS values of the UE and the P-CSCF towards it (TS 24.229 table 7.7.1; assumed, from a digest)."""
        return cls(t1=2.0, t2=16.0, t4=17.0, least_d=128.0)

    def scaled(self, t1: float) -> TimerConfig:
        """Return the same profile with T1 = ``t1`` s and all else in proportion, for tests."""
        factor = t1 / self.t1
        return replace(
            self,
            t1=t1,
            t2=self.t2 * factor,
            t4=self.t4 * factor,
            least_d=self.least_d * factor,
            timer_c=self.timer_c * factor,
            trying_after=self.trying_after * factor,
        )

    @property
    def a(self) -> float:
        """First INVITE retransmission; doubles without cap."""
        return self.t1

    @property
    def b(self) -> float:
        """INVITE client timeout."""
        return 64 * self.t1

    @property
    def c(self) -> float:
        """Proxy INVITE timeout, above three minutes."""
        return self.timer_c

    @property
    def d(self) -> float:
        """Wait for response retransmissions on UDP."""
        return max(self.least_d, 64 * self.t1)

    @property
    def e(self) -> float:
        """First non-INVITE retransmission; doubles up to T2."""
        return self.t1

    @property
    def f(self) -> float:
        """Non-INVITE client timeout."""
        return 64 * self.t1

    @property
    def g(self) -> float:
        """First INVITE response retransmission; doubles up to T2."""
        return self.t1

    @property
    def h(self) -> float:
        """Wait for ACK."""
        return 64 * self.t1

    @property
    def i(self) -> float:
        """Wait for ACK retransmissions on UDP."""
        return self.t4

    @property
    def j(self) -> float:
        """Wait for non-INVITE request retransmissions on UDP."""
        return 64 * self.t1

    @property
    def k(self) -> float:
        """Wait for response retransmissions on UDP."""
        return self.t4

    @property
    def l(self) -> float:  # noqa: E743 - its name in RFC 6026
        """Wait in Accepted at the server (RFC 6026 7.1)."""
        return 64 * self.t1

    @property
    def m(self) -> float:
        """Wait in Accepted at the client (RFC 6026 7.2)."""
        return 64 * self.t1

    @property
    def n(self) -> float:
        """Wait for NOTIFY after SUBSCRIBE (RFC 6665 4.1.2.4)."""
        return 64 * self.t1

    @property
    def non_invite_trying(self) -> float:
        """Time after which Timer E of the client has reached T2, so a 100 is due (RFC 4320 4.1)."""
        elapsed, interval = 0.0, self.t1
        while interval < self.t2:
            elapsed += interval
            interval = min(2 * interval, self.t2)
        return elapsed
