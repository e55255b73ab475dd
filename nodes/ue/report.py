"""What a UE reports of its media: legs and sound."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from keying.modes import ModeFacts
from media.quality import compare
from media.session import spoken_by
from media.wav import build_wav
from nodes.ue.stream import Stream
from protos import ue_control_pb2
from signalling.sip.grammar import format_host

AUDIBLE = 300
"""Sample value from which on a sound counts as one."""
AUDIBLE_SHARE = 0.05
"""Share of samples that has to be audible when the far end's words are not known."""


def voice_of(uri: str) -> str:
    """Return the name a party speaks under: the user part of its URI, in lower case."""
    return uri.partition(":")[2].partition("@")[0].partition(";")[0].lower()


def media_leg(stream: Stream, modes: Mapping[str, ModeFacts]) -> ue_control_pb2.MediaLeg:
    """Return the figures of one stream; `modes` say what each mode calls the source of its keys."""
    figures, keys = stream.statistics(), stream.keys
    local = stream.last_local or stream.local
    return ue_control_pb2.MediaLeg(
        stream_id=stream.index + 1,
        protection="SRTP" if keys.protected else "RTP",
        keying=modes[keys.security].keying if keys.protected else "",
        suite=keys.send.suite.name if keys.send is not None else "",
        scope=keys.scope,
        packets_in=figures.packets_in,
        packets_out=figures.packets_out,
        auth_failures=figures.auth_failures,
        replays=figures.replays,
        local=_text(local),
        remote=_text(stream.remote),
    )


def _text(address: tuple[str, int] | None) -> str:
    return "" if address is None else f"{format_host(address[0])}:{address[1]}"


def audio_report(stream: Stream, voice: str, *, record: bool) -> tuple[ue_control_pb2.AudioReport, bytes]:
    """Judge what was heard against the far end's known voice; returns the report and the recording as WAV.

    Takes a while for long calls: not for the reactor's thread. A sound that is not the known voice (a played file)
    counts as heard by its loudness, with an SNR of 0.
    """
    figures = stream.statistics()
    report = ue_control_pb2.AudioReport(
        loss=figures.lost / figures.expected if figures.expected > 0 else 0.0,
        jitter_ms=figures.jitter_ms,
        packets_received=figures.packets_in,
        packets_sent=figures.packets_out,
    )
    if not record:
        report.heard = figures.packets_in > 0
        return report, b""
    heard = stream.heard()
    comparison = compare(spoken_by(voice).samples, heard)
    report.heard = comparison.heard or is_audible(heard)
    report.snr_db = comparison.snr_db if comparison.heard else 0.0
    return report, build_wav(heard)


def is_audible(sound: array[int]) -> bool:
    """Tell whether a sound is more than silence."""
    thinned = sound[::8]
    return bool(thinned) and sum(abs(sample) > AUDIBLE for sample in thinned) > AUDIBLE_SHARE * len(thinned)
