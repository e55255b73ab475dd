"""``imslab pki``: the certificates of a lab, read and changed in its state folder."""

from __future__ import annotations

from lab.control import Json, Params
from lab.state import StateFolder
from sba.errors import ConfigurationError
from sba.identity import read_identity
from sba.pki import LabCa


def _names(folder: StateFolder) -> list[str]:
    return sorted(path.stem for path in folder.pki.glob("*.crt") if path.stem != "ca")


def _authority(folder: StateFolder, name: str | None) -> LabCa:
    """Return the lab CA; raises ``sba.errors.SbaError`` without one, and where it gave ``name`` no certificate."""
    authority, known = LabCa.open(folder.pki), _names(folder)
    if name is not None and name not in ("ca", *known):
        raise ConfigurationError(f"{name} has no certificate; there are those of {', '.join(known) or 'nobody'}")
    return authority


def describe(folder: StateFolder, name: str | None = None) -> list[Params]:
    """Return one row a certificate; raises ``sba.errors.SbaError`` for an unknown node or a folder without CA."""
    authority = _authority(folder, name)
    revoked = {entry.serial_number for entry in authority.revocation_list()}
    rows: list[Params] = []
    for instance in [name] if name else _names(folder):
        certificate = authority.present(instance)
        identity = read_identity(certificate)
        names: list[Json] = [*identity.dns_names, *identity.addresses]
        rows.append(
            {
                "node": instance,
                "nf_types": list(identity.nf_types),
                "nf_instance_id": identity.instance_id,
                "names": names,
                "serial": f"{certificate.serial_number:x}",
                "not_after": certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M"),
                "revoked": certificate.serial_number in revoked,
            }
        )
    return rows


def reissue(folder: StateFolder, name: str) -> str:
    """Give ``name`` a new certificate and key with the same names; the present one stays valid until revoked."""
    certificate = _authority(folder, name).reissue(name)
    return f"{name} has a new certificate, serial {certificate.serial_number:x}"


def revoke(folder: StateFolder, name: str) -> str:
    """Put the certificate of ``name`` on the revocation list of the lab CA."""
    if name == "ca":
        raise ConfigurationError("the lab CA itself cannot be revoked; end the lab and remove its state folder")
    authority = _authority(folder, name)
    authority.revoke(name)
    return f"the certificate of {name} is revoked (serial {authority.present(name).serial_number:x})"
