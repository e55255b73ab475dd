"""The lab description: the model of ``config/lab.yaml`` and the check that finds every error at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import Field, JsonValue, StringConstraints, ValidationError, model_validator

from lab.config_database import DatabaseSection, database_faults
from lab.config_extensions import ExtensionsSection, extension_faults
from lab.config_hep import HepSection
from lab.config_kms import KmsPolicy, KmsRights, KmsSection
from lab.config_kms_checks import kms_faults, listed
from lab.config_problems import (
    ConfigError,
    ConfigProblem,
    Fault,
    InconsistentError,
    Location,
    dotted,
    duplicate_keys,
    line_of,
    problems_of,
)
from lab.config_services import ServiceProfile, salvaged, service_faults
from lab.config_types import CollectorAddress, Domain, Entry, Impi, Key, MediaSecurityPolicy, Name, Tel
from lab.instances import MOST, instance_names, scalable

MAX_CONFIG_OCTETS = 1 << 20
"""Largest lab description read, octets."""
MAX_USERS = 200
"""Most users in one lab: each gets a loopback address of one /24 subnet less the nodes."""
OWN_KINDS = frozenset({"nrf", "hss", "cscf", "pcscf", "imsagw", "kms", "bsf", "ue", "lab"})
"""Kinds of node that the lab makes itself; an extra node is of another kind."""


class Plmn(Entry):
    """The public land mobile network the lab plays (TS 23.003)."""

    mcc: Annotated[str, StringConstraints(pattern=r"^[0-9]{3}$")] = "001"
    mnc: Annotated[str, StringConstraints(pattern=r"^[0-9]{2,3}$")] = "01"


class HomeDomain(Entry):
    """A home network: its S-/I-CSCF and HSS instances, which domains may share, and its KMS with the BSF."""

    name: Domain
    cscf: Name = "cscf"
    hss: Name = "hss"
    kms: Name | None = None
    """Key management service of the users of this domain; without one they have no end-to-end KMS keys."""
    bsf: Name | None = None
    """Bootstrapping server function, from which the KMS takes its users' keys."""


class PacketWorkers(Entry):
    """Threads of a gateway that carry packets: how many (0: one for each processor), the processors they are pinned to
    in turn, and their SCHED_FIFO priority (0: usual scheduling)."""

    count: Annotated[int, Field(ge=0, le=16)] = 0
    cpus: list[Annotated[int, Field(ge=0, le=1023)]] = Field(default_factory=list)
    priority: Annotated[int, Field(ge=0, le=99)] = 0


class AccessNetwork(Entry):
    """An access network: its P-CSCF, its IMS access gateway and the operator's policy there."""

    name: Name
    pcscf: Name
    gateway: Name
    media_security: MediaSecurityPolicy = "preferred"
    suites: list[str] = Field(default_factory=list, description="SDES suites in order; empty = the node's own order")
    max_sessions: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Calls of one user at once, 0 for no limit."""
    max_streams: Annotated[int, Field(ge=0, le=100_000)] = 32
    """Media streams of all those calls together, 0 for no limit."""
    packet_workers: PacketWorkers = PacketWorkers()
    announce_on_clear_gm: bool = False
    """List sdes-srtp to UEs on an unencrypted Gm as well: shows the headers, and shows keys to the access network."""


class Usim(Entry):
    """The card of a foreign client or a programmable USIM: K with OPc or OP (TS 35.206), 32 hexadecimal digits each."""

    k: Key
    opc: Key | None = None
    op: Key | None = None
    amf: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{4}$")] = "8000"
    """Authentication management field of the vectors made for this card (TS 33.102 Annex H: the top bit is set)."""

    @model_validator(mode="after")
    def _one_operator_code(self) -> Usim:
        if (self.opc is None) == (self.op is None):
            raise ValueError("give either opc or op")
        return self


class User(Entry):
    """A subscriber, and the software UE that plays it unless ``software_ue`` is false."""

    name: Name
    domain: Domain
    impi: Impi
    tel: Tel | None = None
    access: Name
    profile: Literal["aka-tls", "aka-udp", "digest"] = "aka-tls"
    announces: list[Literal["sdes-srtp"]] = Field(default_factory=list)
    subscription: MediaSecurityPolicy = "preferred"
    level: MediaSecurityPolicy = Field(default="preferred", description="What the UE itself accepts")
    suites: list[str] = Field(default_factory=list, description="SDES suites the UE offers; empty = its own order")
    software_ue: bool = True
    kms_policy: KmsPolicy = KmsPolicy()
    kms_rights: KmsRights | None = None
    """What the user's KMS lets him do; absent: everything with users of the lab."""
    service_profile: Name | None = None
    """The service profile whose filter criteria concern the user's requests; absent: none do."""
    usim: Usim | None = None
    """Keys of a card the lab did not make; absent = random keys for each lab, never shown."""

    @property
    def impu(self) -> str:
        """The default public identity, a SIP URI."""
        return f"sip:{self.name}@{self.domain}"


class ExtraNode(Entry):
    """A node of a kind that another distribution brings (docs/extending.md); its settings are that kind's own."""

    name: Name
    kind: Name
    settings: dict[str, JsonValue] = Field(default_factory=dict)


DigestAlgorithm = Literal["SHA-256", "MD5"]


def _md5_alone() -> list[DigestAlgorithm]:
    return ["MD5"]


class LabConfig(Entry):
    """A whole lab, as ``config/lab.yaml`` writes it."""

    name: Name = "imslab"
    plmn: Plmn = Plmn()
    mw_transport: Literal["tls", "tcp"] = "tls"
    key_export: Literal["never", "per-call"] = "per-call"
    digest_algorithms: list[DigestAlgorithm] = Field(default_factory=_md5_alone, min_length=1)
    """What digest users are challenged with, best first; clients that do not know RFC 8760 want MD5 alone."""
    trace_sampling: Annotated[float, Field(ge=0, le=1, strict=False)] = 1.0
    otlp_forward: CollectorAddress | None = None
    """Collector that gets all telemetry too: ``host:port``, or ``https://host:port`` for TLS; absent: none."""
    console: bool | Annotated[int, Field(ge=1024, le=65_535)] = True
    """Whether the lab has a page to watch it, on loopback; a number is its port, else the kernel chooses."""
    nrf: Name = "nrf"
    home_domains: Annotated[list[HomeDomain], Field(min_length=1)]
    access_networks: Annotated[list[AccessNetwork], Field(min_length=1)]
    users: Annotated[list[User], Field(max_length=MAX_USERS)] = Field(default_factory=list)
    kms: KmsSection = KmsSection()
    hep: HepSection | None = None
    """Homer server that P-CSCFs and CSCFs tell what they see; absent: none."""
    instances: dict[Name, Annotated[int, Field(ge=1, le=MOST)]] = Field(default_factory=dict)
    """Instances of a P-CSCF, IMS access gateway or KMS at the start, by its name; 1 of those not named."""
    database: DatabaseSection = DatabaseSection()
    extra_nodes: list[ExtraNode] = Field(default_factory=list)
    service_profiles: list[ServiceProfile] = Field(default_factory=list)
    extensions: ExtensionsSection = ExtensionsSection()
    """Media security of packages that is enabled; nothing else of it is used."""

    @model_validator(mode="after")
    def _consistent(self) -> LabConfig:
        faults = list(_inconsistencies(self))
        if faults:
            raise InconsistentError(faults)
        return self

    def user(self, name: str) -> User:
        """Return the user called ``name``; raises ``KeyError``."""
        for user in self.users:
            if user.name == name:
                return user
        raise KeyError(name)


_EntryT = TypeVar("_EntryT", bound=Entry)


def _inconsistencies(config: LabConfig) -> Iterator[Fault]:
    roles: dict[str, tuple[str, Location]] = {config.nrf: ("nrf", ("nrf",))}

    def claim(instance: str | None, role: str, where: Location, *, shared: bool = False) -> Iterator[Fault]:
        if instance is None:
            return
        taken = roles.setdefault(instance, (role, where))
        if taken[1] != where and not (shared and taken[0] == role):
            yield where, f"the name {instance} is already the {taken[0]}", "a name of its own for every node"

    domains: set[str] = set()
    for index, home in enumerate(config.home_domains):
        if home.name is not None and home.name in domains:
            yield ("home_domains", index, "name"), f"{home.name} is listed twice", "each domain once"
        domains.add(home.name)
        yield from claim(home.cscf, "cscf", ("home_domains", index, "cscf"), shared=True)
        yield from claim(home.hss, "hss", ("home_domains", index, "hss"), shared=True)
        yield from claim(home.kms, "kms", ("home_domains", index, "kms"))
        yield from claim(home.bsf, "bsf", ("home_domains", index, "bsf"))
    networks: set[str] = set()
    for index, access in enumerate(config.access_networks):
        if access.name is not None and access.name in networks:
            yield ("access_networks", index, "name"), f"{access.name} is listed twice", "each access network once"
        networks.add(access.name)
        yield from claim(access.pcscf, "pcscf", ("access_networks", index, "pcscf"))
        yield from claim(access.gateway, "imsagw", ("access_networks", index, "gateway"))
    yield from _instance_faults(config, roles)
    owners: dict[str, str] = {}
    for index, user in enumerate(config.users):
        yield from claim(user.name, "user", ("users", index, "name"))
        for label, identity in (("impi", user.impi), ("tel", user.tel), ("name", user.impu)):
            if identity is not None and owners.setdefault(identity, user.name) != user.name:
                yield ("users", index, label), f"{identity} belongs to {owners[identity]}", "an identity of its own"
        if user.domain is not None and user.domain not in domains:
            yield ("users", index, "domain"), f"{user.domain} is not a home domain", f"one of {listed(domains)}"
        if user.access is not None and user.access not in networks:
            yield ("users", index, "access"), f"{user.access} is no access network", f"one of {listed(networks)}"
    yield from kms_faults(config, domains)
    yield from database_faults(config.database)
    for index, extra in enumerate(config.extra_nodes):
        yield from claim(extra.name, f"extra {extra.kind}", ("extra_nodes", index, "name"))
    yield from _role_faults(config, roles)
    yield from _extra_faults(config.extra_nodes)
    extra_names = {extra.name for extra in config.extra_nodes if extra.name is not None}
    wanted = [(index, user.service_profile) for index, user in enumerate(config.users)]
    yield from service_faults(config.service_profiles, wanted, extra_names)
    yield from extension_faults(config.extensions, {user.name for user in config.users if user.name is not None})


def _role_faults(config: LabConfig, roles: Mapping[str, tuple[str, Location]]) -> Iterator[Fault]:
    """Look for nodes that are called as a role of the first home domain, in which every node has a name.

    The certificate of such a node shows the role (``kms.ims.test``), and it is believed in it.
    """
    for home in config.home_domains[:1]:
        for name, holder in (("scscf", home.cscf), ("hss", home.hss), ("kms", home.kms), ("bsf", home.bsf)):
            if name in roles and holder != name:
                found = f"certificates show the name {name} for {holder or 'nobody'} of {home.name}"
                yield roles[name][1], found, "a name of its own for every node"


def _instance_faults(config: LabConfig, roles: dict[str, tuple[str, Location]]) -> Iterator[Fault]:
    """Keep the names of all instances there may be, and look at what is said of their number."""
    several = scalable(config)
    for nf, kind in several.items():
        for instance in instance_names(nf, MOST)[1:]:
            if instance in roles:
                found = f"{instance} is what further instances of the {kind} {nf} are called"
                yield roles[instance][1], found, "a name of its own for every node"
            roles[instance] = (f"{kind} {nf}", ("instances", nf))
    for nf in config.instances:
        if nf not in several:
            yield ("instances", nf), f"{nf} is no P-CSCF, gateway or KMS of this lab", f"one of {listed(several)}"


def _extra_faults(nodes: Sequence[ExtraNode]) -> Iterator[Fault]:
    for index, extra in enumerate(nodes):
        if extra.name == "lab":
            yield ("extra_nodes", index, "name"), "the name lab is the operator's", "a name of its own for every node"
        if extra.kind in OWN_KINDS:
            where = ("extra_nodes", index, "kind")
            yield where, f"{extra.kind} is a kind of the lab itself", "a kind that another distribution brings"


Check = Callable[["LabConfig"], Iterable[Fault]]
"""Looks for faults that only what is installed can tell; given what can be made of a description that has others."""


def load(path: Path, check: Check | None = None) -> LabConfig:
    """Read the lab description at ``path``.

    Raises ``ConfigError`` with every fault found: unreadable file, YAML syntax, wrong entries, entries that do not
    fit together, and what ``check`` finds.
    """
    file = str(path)
    try:
        if path.stat().st_size > MAX_CONFIG_OCTETS:
            raise _unusable(file, "is too large", f"at most {MAX_CONFIG_OCTETS} octets")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(file, f"cannot be read ({error})", "a readable file") from None
    return parse(text, file, check)


def _unusable(file: str, found: str, right: str) -> ConfigError:
    return ConfigError([ConfigProblem(file, 1, "the file", found, right)])


def parse(text: str, file: str = "lab.yaml", check: Check | None = None) -> LabConfig:
    """Build a ``LabConfig`` from YAML ``text``; ``file`` names it in errors. Raises ``ConfigError``."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        found = error.problem or "cannot be parsed"
        if error.context and error.context_mark:
            found += f", {error.context} that begins on line {error.context_mark.line + 1}"
        problem = ConfigProblem(file, line, "YAML", found, "valid YAML")
        raise ConfigError([problem]) from None
    except yaml.YAMLError as error:
        raise ConfigError([ConfigProblem(file, 1, "YAML", str(error), "valid YAML")]) from None
    if content is None:
        raise _unusable(file, "is empty", "the description of a lab; imslab up without --config has one")
    problems = list(duplicate_keys(tree, file))
    config: LabConfig | None = None
    faults: list[Fault] = []
    try:
        config = LabConfig.model_validate(content)
    except ValidationError as error:
        problems += problems_of(error, tree, file, LabConfig)
        salvage = _salvage(content)
        faults += _inconsistencies(salvage)
    if check is not None:
        faults += check(config or salvage)
    wrong = {(problem.line, problem.where) for problem in problems}
    for location, found, right in faults:
        problem = ConfigProblem(file, line_of(tree, location), dotted(location), found, right)
        if (problem.line, problem.where) not in wrong:
            problems.append(problem)
    if config is None or problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line)) from None
    return config


def _salvage(content: object) -> LabConfig:
    """Make what can be made of a faulty description, so that its other faults are found in the same run."""

    def entries(key: str, kind: type[_EntryT]) -> list[_EntryT]:
        items = content.get(key, []) if isinstance(content, dict) else []
        made = []
        for item in items if isinstance(items, list) else []:
            given = {str(name): value for name, value in item.items()} if isinstance(item, dict) else {}
            parts: dict[str, type[Entry]] = {"kms_policy": KmsPolicy, "kms_rights": KmsRights}
            plain: dict[str, object] = {
                name: value for name, value in given.items() if isinstance(value, (str, bool)) and name not in parts
            }
            for name, part in parts.items():
                if name in given and (sound := _sound(part, given[name])) is not None:
                    plain[name] = sound
            if isinstance(given.get("settings"), dict):
                plain["settings"] = given["settings"]
            if isinstance(given.get("suites"), list):
                plain["suites"] = [suite for suite in given["suites"] if isinstance(suite, str)]
            blank = {name: None for name, field in kind.model_fields.items() if field.is_required()}
            made.append(kind.model_construct(None, **{**blank, **plain}))
        return made

    nrf = content.get("nrf", "nrf") if isinstance(content, dict) else "nrf"
    kms = _sound(KmsSection, content.get("kms", {})) if isinstance(content, dict) else None
    database = _sound(DatabaseSection, content.get("database", {})) if isinstance(content, dict) else None
    return LabConfig.model_construct(
        nrf=str(nrf),
        home_domains=entries("home_domains", HomeDomain),
        access_networks=entries("access_networks", AccessNetwork),
        users=entries("users", User),
        kms=kms or KmsSection(),
        database=database or DatabaseSection(),
        instances=_counted(content.get("instances") if isinstance(content, dict) else None),
        extra_nodes=entries("extra_nodes", ExtraNode),
        service_profiles=salvaged(content.get("service_profiles") if isinstance(content, dict) else None),
        extensions=_sound(ExtensionsSection, content.get("extensions", {}) if isinstance(content, dict) else {})
        or ExtensionsSection(),
    )


def _counted(given: object) -> dict[str, int]:
    return {str(nf): 1 for nf in given} if isinstance(given, dict) else {}


def _sound(kind: type[_EntryT], given: object) -> _EntryT | None:
    """Return one entry, None unless it is right in itself."""
    try:
        return kind.model_validate(given)
    except ValidationError:
        return None
