"""Secrets at rest: sealed with a key of the store's own, made of the lab's sealing key."""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sba.errors import ConfigurationError, StoreError
from sba.pki import write_private

SEALING_KEY_OCTETS = 32
_NONCE_OCTETS = 12


def create_sealing_key(path: str | Path) -> None:
    """Write a new random sealing key (32 octets in hex, mode 0600) unless the file exists."""
    path = Path(path)
    if not path.exists():
        write_private(path, secrets.token_hex(SEALING_KEY_OCTETS).encode("ascii"))


def hand_out(key_file: Path, sealed_for: str, folder: Path) -> Path:
    """Write the key of one store into ``folder`` and return the file: a node needs no more of the lab's sealing key."""
    file = _handed_out(folder, sealed_for)
    write_private(file, _store_key(key_file, sealed_for).hex().encode("ascii"))
    return file


def _handed_out(folder: Path, sealed_for: str) -> Path:
    return folder / f"{sealed_for.replace(' ', '-')}.seal"


def _store_key(key_file: Path, sealed_for: str) -> bytes:
    if key_file.is_dir():
        return _read(_handed_out(key_file, sealed_for))
    info = f"imslab seal {sealed_for}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=SEALING_KEY_OCTETS, salt=None, info=info).derive(_read(key_file))


def _read(key_file: Path) -> bytes:
    try:
        key = bytes.fromhex(key_file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the sealing key file {key_file} cannot be read") from error
    if len(key) != SEALING_KEY_OCTETS:
        raise ConfigurationError(f"the sealing key in {key_file} has a wrong length")
    return key


class Sealer:
    """AES-256-GCM under a key derived from the lab's sealing key for one store (HKDF-SHA-256).

    ``sealed_for`` is the NF instance id or the name of the NF set (:attr:`sba.config.NodeEntry.sealed_for`). Where
    ``key_file`` is a folder it holds keys of single stores (:func:`hand_out`): who has it opens those alone.
    """

    def __init__(self, key_file: Path, sealed_for: str) -> None:
        self._aead = AESGCM(_store_key(key_file, sealed_for))

    def seal(self, plain: bytes, aad: bytes = b"") -> bytes:
        """Encrypt; ``aad`` names the place the value belongs to, so that it opens nowhere else."""
        nonce = secrets.token_bytes(_NONCE_OCTETS)
        return nonce + self._aead.encrypt(nonce, plain, aad)

    def unseal(self, sealed: bytes, aad: bytes = b"") -> bytes:
        """Decrypt what :meth:`seal` made; raises :class:`StoreError` when it was altered or moved."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_OCTETS], sealed[_NONCE_OCTETS:], aad)
        except (InvalidTag, ValueError) as error:
            raise StoreError("a sealed value does not open") from error
