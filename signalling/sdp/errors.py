"""What can be wrong with a session description."""


class SdpError(ValueError):
    """The text is not a session description this side reads (RFC 8866).

    `line` counts from 1 and is 0 when no single line is to blame.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class SdpAttributeError(SdpError):
    """The description is well-formed, but one attribute's value does not follow its own grammar."""


class SdpShapeError(SdpError):
    """An answer or a later offer does not fit its predecessor (RFC 3264 6, 8)."""
