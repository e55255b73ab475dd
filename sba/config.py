"""The resolved description of a lab (``lab.json``) as one node sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sba.errors import ConfigurationError
from sba.networks import placed


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Plmn(_Strict):
    """Mobile country code (3 digits) and network code (2 or 3 digits)."""

    mcc: str = Field(default="001", pattern=r"^\d{3}$")
    mnc: str = Field(default="01", pattern=r"^\d{2,3}$")


class Address(_Strict):
    """Where a server listens; port 0 means the kernel chooses."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)


class NrfAddress(_Strict):
    """The one address a node knows beforehand: its NRF."""

    host: str
    port: int = Field(ge=0, le=65535)
    fqdn: str
    instance_id: str


class Otlp(_Strict):
    """Where telemetry goes; an empty endpoint switches export off."""

    endpoint: str = ""
    tls_name: str = ""
    """DNS name expected in the collector's certificate; empty = the host of the endpoint."""
    interval_ms: int = Field(default=400, ge=50, le=60_000)
    """Time between two exports of spans and logs, ms."""
    metrics_interval_ms: int = Field(default=5000, ge=100, le=600_000)
    """Time between two exports of metrics, ms."""
    sampling: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of new traces that are recorded; a trace that came in sampled stays sampled."""


class SbiPolicy(_Strict):
    """Limits and rules every service endpoint of the lab applies."""

    tls_floor: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    """Lowest TLS version accepted (TS 33.210 6.2; assumed)."""
    max_message: int = Field(default=8 * 1024 * 1024, ge=1024)
    """Largest request or response, octets."""
    max_metadata: int = Field(default=16 * 1024, ge=4096)
    """Largest header block, octets."""
    default_deadline_s: float = Field(default=30.0, gt=0)
    """Applied to a unary call that came without a deadline, s."""
    calls_per_second: float = Field(default=5000.0, gt=0)
    """Sustained calls of one consumer before RESOURCE_EXHAUSTED."""
    burst: float = Field(default=10000.0, gt=0)
    """Calls a consumer may make at once before the rate counts."""
    leeway_s: float = Field(default=5.0, ge=0, le=30)
    """Clock difference tolerated in tokens, s (assumed)."""
    token_lifetime_s: int = Field(default=300, ge=2, le=900)
    """Lifetime the NRF gives a token, s (assumed)."""
    handshake_s: float = Field(default=5.0, gt=0)
    """From an accepted connection to the end of its TLS handshake, s."""
    connections: int = Field(default=4096, ge=1)
    """Accepted connections of a server, those in their handshake included; one more is closed at once."""
    calls_per_connection: int = Field(default=1000, ge=1)
    """Calls in progress on one connection; further ones wait at the consumer."""
    reflection: bool = False
    """Answer gRPC reflection."""


class NodeEntry(_Strict):
    """One node of the lab."""

    kind: str
    instance: str
    nf_instance_id: str
    fqdn: str
    nf: str = ""
    """Name in the lab description, which several instances share; empty: the instance's own."""
    nf_set: str = ""
    """NF set whose members share one store (TS 23.501 5.21.3): a name that all their certificates show; empty: none."""
    sbi: Address = Address()
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def store_name(self) -> str:
        """Name of the store: that of the set, else of the instance."""
        return self.nf_set or self.instance

    @property
    def sealed_for(self) -> str:
        """Whose key seals what is stored (:class:`sba.store.Sealer`): the set, else the NF instance id."""
        return set_seal(self.nf_set) if self.nf_set else self.nf_instance_id


def set_seal(nf_set: str) -> str:
    """Return the name under which the stores of an NF set are sealed; no NF instance id looks like it."""
    return f"set {nf_set}"


class LabDescription(BaseModel):
    """The file every node of a lab reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = "imslab"
    """Name of the lab, ``service.namespace`` of its telemetry."""
    domain: str = "ims.test"
    plmn: Plmn = Plmn()
    pki_dir: Path
    state_dir: Path
    sealing_key_file: Path
    nrf: NrfAddress
    otlp: Otlp = Otlp()
    sbi_policy: SbiPolicy = SbiPolicy()
    database_url: str = ""
    """``postgresql+asyncpg://host:port/database``; empty = one SQLite file per store under ``state_dir``."""
    database_password_file: str = ""
    """File with the password of a node's database role; ``{instance}`` and ``{nf}`` (its NF set, else its name in the
    description) stand for its names. Empty: the server asks for none."""
    database_ca_file: str = ""
    """Certificates that may have issued the database server's; with it TLS is demanded. Empty: no TLS."""
    database_wait_s: float = Field(default=20.0, ge=0)
    """How long a node waits for the database when it starts, s."""
    key_export: bool = False
    """Lab switch: captures may carry media keys."""
    networks: dict[str, str] = Field(default_factory=dict)
    """Subnets by name of network; a node's own hosts may be written ``@NAME`` (:mod:`sba.networks`)."""
    package_path: tuple[str, ...] = ()
    """Folders at the end of ``sys.path`` of every node: packages that are not installed (:mod:`sba.packages`)."""
    security_modes: tuple[str, ...] = ()
    """Security modes of packages that the lab enables."""
    crypto_suites: tuple[str, ...] = ()
    """Crypto suites of packages that the lab enables."""
    nodes: dict[str, NodeEntry]

    @field_validator("plmn", mode="before")
    @classmethod
    def _plmn_from_digits(cls, value: object) -> object:
        if isinstance(value, str):
            digits = value.replace("-", "")
            return {"mcc": digits[:3], "mnc": digits[3:]}
        return value


class NodeEnvironment(BaseModel):
    """What the lab description says to one node."""

    model_config = ConfigDict(frozen=True)

    lab: LabDescription
    node: NodeEntry

    @property
    def instance(self) -> str:
        """Name of this node, e.g. ``pcscf-a``."""
        return self.node.instance

    @property
    def domain(self) -> str:
        """Home domain of the lab."""
        return self.lab.domain

    @property
    def node_dir(self) -> Path:
        """Folder for the files of this node or of its set; made on first use by the store."""
        return self.lab.state_dir / self.node.store_name

    @property
    def settings(self) -> dict[str, Any]:
        """Node specific settings, not yet validated."""
        return self.node.settings

    @classmethod
    def load(cls, path: str | Path, instance: str) -> NodeEnvironment:
        """Read the lab description and pick one node.

        Raises :class:`ConfigurationError` when the file is missing, malformed or does not name the node.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            lab = LabDescription.model_validate(document)
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigurationError(f"cannot read the lab description {path}: {error}") from error
        except ValidationError as error:
            raise ConfigurationError(f"the lab description {path} is not valid: {error}") from error
        node = lab.nodes.get(instance)
        if node is None:
            raise ConfigurationError(f"the lab description {path} has no node named {instance!r}")
        if lab.networks:
            node = NodeEntry.model_validate(placed(node.model_dump(), lab.networks))
        return cls(lab=lab, node=node)
