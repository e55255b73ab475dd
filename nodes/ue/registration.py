"""The registration of a UE as a state table, and the figures it depends on (TS 24.229 5.1.1, TS 33.203)."""

from dataclasses import dataclass, field
from enum import Enum

from signalling.secagree import MechanismEntry, agreed_mechanisms, media_entries

INVALID_CHALLENGES = 2
"""Invalid challenges in a row that are answered before the UE gives up (E-6, assumed)."""
_LONG = 1200
_EARLY = 600


class State(Enum):
    """Where the registration stands."""

    IDLE = "idle"
    W401 = "w401"
    """First REGISTER sent."""
    W200 = "w200"
    """Challenge answered."""
    REG = "registered"
    W200R = "refreshing"
    W200D = "deregistering"
    FAILED = "failed"


class Event(Enum):
    """What happens to it."""

    START = "start"
    CHALLENGE = "challenge"
    """A 401 that could be answered."""
    BAD_CHALLENGE = "bad-challenge"
    """A 401 with a wrong MAC or SQN, to which the UE says so."""
    ACCEPTED = "accepted"
    TOO_BRIEF = "too-brief"
    """423: again with a longer time."""
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    """No answer, or one that says later."""
    REFRESH = "refresh"
    DEREGISTER = "deregister"
    LOST = "lost"
    """The flow or SA is gone, the time is over, or the network ended it."""


class RegistrationError(Exception):
    """An event that does not fit the state."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.START): State.W401,
    (State.FAILED, Event.START): State.W401,
    (State.W401, Event.CHALLENGE): State.W200,
    (State.W401, Event.BAD_CHALLENGE): State.W401,
    (State.W401, Event.ACCEPTED): State.REG,
    (State.W401, Event.TOO_BRIEF): State.W401,
    (State.W401, Event.REFUSED): State.FAILED,
    (State.W401, Event.UNREACHABLE): State.IDLE,
    (State.W401, Event.LOST): State.IDLE,
    (State.W200, Event.CHALLENGE): State.W200,
    (State.W200, Event.BAD_CHALLENGE): State.W401,
    (State.W200, Event.ACCEPTED): State.REG,
    (State.W200, Event.TOO_BRIEF): State.W401,
    (State.W200, Event.REFUSED): State.FAILED,
    (State.W200, Event.UNREACHABLE): State.IDLE,
    (State.W200, Event.LOST): State.IDLE,
    (State.REG, Event.REFRESH): State.W200R,
    (State.REG, Event.START): State.W200R,
    (State.REG, Event.DEREGISTER): State.W200D,
    (State.REG, Event.LOST): State.IDLE,
    (State.W200R, Event.CHALLENGE): State.W200,
    (State.W200R, Event.BAD_CHALLENGE): State.W401,
    (State.W200R, Event.ACCEPTED): State.REG,
    (State.W200R, Event.TOO_BRIEF): State.W401,
    (State.W200R, Event.REFUSED): State.FAILED,
    (State.W200R, Event.UNREACHABLE): State.IDLE,
    (State.W200R, Event.LOST): State.IDLE,
    (State.W200D, Event.CHALLENGE): State.W200D,
    (State.W200D, Event.BAD_CHALLENGE): State.W200D,
    (State.W200D, Event.ACCEPTED): State.IDLE,
    (State.W200D, Event.REFUSED): State.IDLE,
    (State.W200D, Event.UNREACHABLE): State.IDLE,
    (State.W200D, Event.LOST): State.IDLE,
}
"""The whole machine; any other pair is an error, but that LOST in IDLE and FAILED changes nothing."""


def next_state(state: State, event: Event) -> State:
    """Return the state after `event`. Raises RegistrationError for a pair that cannot be."""
    if event is Event.LOST and state in {State.IDLE, State.FAILED}:
        return state
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise RegistrationError(f"{event.value} in state {state.value}") from None


def refresh_delay(granted_s: float) -> float:
    """Return the seconds until the UE registers again: 600 s before the end, or at half time up to 1200 s (RR-1)."""
    return granted_s - _EARLY if granted_s > _LONG else granted_s / 2


@dataclass
class Registration:
    """What the UE knows of its registration."""

    state: State = State.IDLE
    client_list: tuple[MechanismEntry, ...] = ()
    """Security-Client as sent."""
    server_list: tuple[MechanismEntry, ...] = ()
    """Security-Server as received, in 401 or 200."""
    service_route: tuple[str, ...] = ()
    associated: tuple[str, ...] = ()
    """P-Associated-URI, default identity first."""
    expires_at: float = 0.0
    """End of the registration in seconds of the node's clock."""
    granted_s: int = 0
    invalid_challenges: int = 0
    trace_id: str = ""
    status: int = 0
    reason: str = ""
    verify_tampering: str = field(default="")

    def apply(self, event: Event) -> None:
        """Go to the next state. Raises RegistrationError."""
        self.state = next_state(self.state, event)

    @property
    def is_registered(self) -> bool:
        """True while the binding stands at the registrar, also during a refresh."""
        return self.state in {State.REG, State.W200R, State.W200D} or (
            self.state in {State.W401, State.W200} and self.expires_at > 0
        )

    @property
    def agreed(self) -> tuple[str, ...]:
        """Media mechanisms both sides announced (TS 24.229 7.2A.7)."""
        return agreed_mechanisms(self.client_list, self.server_list)

    def verify_entries(self) -> tuple[MechanismEntry, ...]:
        """Return Security-Verify for the next request: the received list, unchanged but for a test's tampering."""
        entries = self.server_list
        match self.verify_tampering:
            case "omit":
                return ()
            case "drop":
                return entries[1:]
            case "reorder":
                return entries[::-1]
            case "alter" if entries:
                return (
                    MechanismEntry("msrp-tls" if entries[0].name != "msrp-tls" else "sdes-srtp", entries[0].params),
                    *entries[1:],
                )
            case _:
                return entries

    def clear(self) -> None:
        """Forget the binding and the agreement, which live and die together (TS 33.328 7.1.1-8, assumed)."""
        self.service_route = self.associated = ()
        self.client_list = self.server_list = ()
        self.expires_at = 0.0
        self.granted_s = 0

    def media_list_received(self) -> bool:
        """Tell whether the network announced any media mechanism."""
        return bool(media_entries(self.server_list))
