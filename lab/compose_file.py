"""Writes the compose file of a lab description: every network function a service, on the networks it belongs to.

The text is meant to be read, and to be changed by hand where a site needs it; ``compose/compose.yaml`` is what it makes
of ``config/lab.yaml``. It keeps to what Compose v2 and docker-compose 1.29 both understand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import yaml

from lab.compose_packages import Mounts
from lab.config import LabConfig
from lab.layout_containers import (
    DATABASE_SERVICE,
    DEFAULT_PREFIX,
    OPERATOR_SERVICE,
    OUTSIDE,
    ContainerLayout,
    Service,
)

CONSOLE_PORT: Final = 8480
"""Port of the console in its container; on the machine it is published on loopback alone."""
_MEMORY: Final = {"imsagw": "384m", "ue": "256m"}
_TITLES: Final = {
    "nrf": "registry, discovery, tokens",
    "hss": "subscribers",
    "cscf": "I- and S-CSCF",
    "bsf": "bootstrapping (GBA)",
    "kms": "key management",
    "imsagw": "media edge",
    "pcscf": "signalling edge",
    "ue": "software UE",
}

_HEAD = """\
# {name} in containers: what `imslab compose-file` makes of {source}. Compose v2 and docker-compose 1.29 take it.
#
#   docker compose up -d
#   docker compose run --rm lab imslab call alice bob --security e2ae-sdes
#
# compose/README.md says what each part is for, and how to run it where no image registry can be reached.

x-image: &image
  image: ${{IMSLAB_IMAGE:-imslab}}
  build:
    context: {context}
    dockerfile: compose/Dockerfile
    network: ${{IMSLAB_BUILD_NETWORK:-default}}

# what a container of the lab may not do, and how much it may take
x-guarded: &guarded
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  read_only: true
  init: true
  tmpfs: ["/tmp:size=16m,mode=1777"]
  mem_limit: 256m
  cpus: 1.0
  pids_limit: 128
  restart: unless-stopped
  stop_grace_period: 15s
  logging: {{driver: json-file, options: {{max-size: 10m, max-file: "2"}}}}

# asked over mutual TLS with the node's own certificate (grpc.health.v1)
x-health: &health
  healthcheck:
    test: ["CMD", "python", "-I", "-m", "sba.probe"]
    interval: 15s
    timeout: 5s
    retries: 4
    start_period: 60s

# a network function: its store is a schema of its own in the database; it ends before both the NRF,
# where it de-registers, and its database
x-node: &node
  <<: [*image, *guarded, *health]
  command: ["python", "-m", "sba.container"]
  depends_on:
    postgres: {{condition: service_healthy}}
    database: {{condition: service_completed_successfully}}
    {nrf}: {{condition: service_started}}

# a phone: it keeps what is its own, and reaches nothing behind the edge
x-phone: &phone
  <<: [*image, *guarded, *health]
  command: ["python", "-m", "sba.container"]
  depends_on:
    init: {{condition: service_completed_successfully}}
    {nrf}: {{condition: service_started}}

# a program that is not the lab's own, for looking at telemetry
x-observer: &observer
  <<: *guarded
  profiles: [observability]
  tmpfs: ["/tmp:size=64m,mode=1777"]
  mem_limit: 512m
  pids_limit: 256

services:
  # Lays the lab out and gives each service its secrets; ends. Root, to give files to the users of other containers.
  init:
    <<: [*image, *guarded]
    command: [{init_command}]
    user: "0:0"
    cap_add: [CHOWN, DAC_OVERRIDE, FOWNER]
    network_mode: none
    restart: "no"
    environment: {{IMSLAB_PREFIX: "${{IMSLAB_PREFIX:-{prefix}}}"}}
    volumes:
      - ${{IMSLAB_CONFIG:-{source_here}}}:/config/lab.yaml:ro
      - ${{IMSLAB_SECRETS:-./secrets}}:/secrets
      - authority:/var/lib/imslab/authority
      - operator:/var/lib/imslab{mounts}

  postgres:
    <<: *guarded
    image: postgres:15-bookworm
    user: "999:999"
    command:
      - postgres
      - -cssl=on
      - -cssl_cert_file=/run/secrets/imslab/postgres.crt
      - -cssl_key_file=/run/secrets/imslab/postgres.key
      - -chba_file=/etc/imslab/pg_hba.conf
      - -cmax_connections=250
      - -cshared_buffers=64MB
    environment: {{POSTGRES_PASSWORD_FILE: /run/secrets/imslab/superuser.password}}
    tmpfs: ["/tmp:size=16m,mode=1777", "/var/run/postgresql:size=1m,mode=1777"]
    mem_limit: 512m
    stop_signal: SIGINT
    volumes:
      - database:/var/lib/postgresql/data
      - {deploy}/postgres/pg_hba.conf:/etc/imslab/pg_hba.conf:ro
    secrets: [{{source: postgres, target: imslab}}]
    networks: [sba]
    depends_on: {{init: {{condition: service_completed_successfully}}}}
    healthcheck:
      test: ["CMD", "pg_isready", "-q", "-h", "127.0.0.1", "-U", "postgres"]
      interval: 2s
      timeout: 5s
      retries: 30

  # Makes a role and a schema for each network function; ends.
  database:
    <<: [*image, *guarded]
    command:
      - imslab
      - database
      - prepare
      - --lab=/run/secrets/imslab/lab.json
      - --role=postgres
      - --password-file=/run/secrets/imslab/superuser.password
    restart: "no"
    secrets: [{{source: database, target: imslab}}]
    networks: [sba]
    depends_on: {{postgres: {{condition: service_healthy}}}}

  # The operator: receives telemetry, answers the command line, serves the page.
  console:
    <<: [*image, *guarded]
    command: ["python", "-m", "lab.external"]
    mem_limit: 512m
    environment:
      IMSLAB_CONSOLE_PORT: "{console_port}"
      IMSLAB_CONSOLE_PUBLISHED: 127.0.0.1:${{IMSLAB_CONSOLE_PORT:-{console_port}}}
      IMSLAB_CONSOLE_HOSTS: console:{console_port}
    ports: ["127.0.0.1:${{IMSLAB_CONSOLE_PORT:-{console_port}}}:{console_port}"]
    volumes:
      - operator:/var/lib/imslab
      - out:/out{mounts}
    secrets: [{{source: console, target: imslab}}]
    networks: [management, sba, observation, outside]
    depends_on: {{init: {{condition: service_completed_successfully}}}}
    healthcheck:
      test: ["CMD", "python", "-I", "-m", "lab.waiting", "--alive"]
      interval: 15s
      timeout: 5s
      retries: 4
      start_period: 30s

  # The command line: docker compose run --rm lab imslab ...; what it writes is in the volume `out`.
  lab:
    <<: [*image, *guarded]
    profiles: [tools]
    entrypoint: ["python", "-m", "lab.waiting"]
    command: ["imslab", "status"]
    network_mode: none
    restart: "no"
    volumes:
      - authority:/var/lib/imslab/authority
      - operator:/var/lib/imslab
      - out:/out{mounts}

  # What others use to look at telemetry: docker compose --profile observability up -d
  collector:
    <<: *observer
    image: otel/opentelemetry-collector-contrib:0.116.1
    command: ["--config=/etc/otel/collector.yaml"]
    user: "10001:10001"
    networks: [observation]
    volumes: [{deploy}/otel/collector.yaml:/etc/otel/collector.yaml:ro]

  jaeger:
    <<: *observer
    image: jaegertracing/all-in-one:1.64.0
    user: "10001:10001"
    environment: {{MEMORY_MAX_TRACES: "10000"}}
    ports: ["127.0.0.1:${{IMSLAB_JAEGER_PORT:-16686}}:16686"]
    networks: [observation, outside]

  prometheus:
    <<: *observer
    image: prom/prometheus:v2.55.1
    command: ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
    user: "65534:65534"
    ports: ["127.0.0.1:${{IMSLAB_PROMETHEUS_PORT:-9090}}:9090"]
    networks: [observation, outside]
    volumes:
      - {deploy}/grafana/prometheus.yml:/etc/prometheus/prometheus.yml:ro
      - prometheus:/prometheus

  grafana:
    <<: *observer
    image: grafana/grafana:11.4.0
    user: "472:472"
    environment:
      GF_SECURITY_ADMIN_PASSWORD__FILE: /run/secrets/imslab/admin.password
      GF_ANALYTICS_REPORTING_ENABLED: "false"
      GF_ANALYTICS_CHECK_FOR_UPDATES: "false"
    ports: ["127.0.0.1:${{IMSLAB_GRAFANA_PORT:-3000}}:3000"]
    networks: [observation, outside]
    secrets: [{{source: grafana, target: imslab}}]
    depends_on: {{init: {{condition: service_completed_successfully}}}}
    volumes:
      - {deploy}/grafana/provisioning:/etc/grafana/provisioning:ro
      - {deploy}/grafana/dashboards:/var/lib/grafana/dashboards:ro
      - grafana:/var/lib/grafana
"""


def _service(service: Service, layout: ContainerLayout, mounts: Sequence[str]) -> Iterator[str]:
    title = _TITLES.get(service.kind, f"a {service.kind}")
    several = "; several with --scale" if service.scales else ""
    yield f"  # {title}{several}"
    yield f"  {service.name}:"
    yield f"    <<: *{'phone' if service.kind == 'ue' else 'node'}"
    if service.kind == "nrf":
        yield "    depends_on:"
        yield "      postgres: {condition: service_healthy}"
        yield "      database: {condition: service_completed_successfully}"
    if service.kind in _MEMORY:
        yield f"    mem_limit: {_MEMORY[service.kind]}"
    volumes = list(mounts)
    if service.scales:
        volumes.insert(0, f"slots-{service.name}:/var/lib/imslab/slots")
    if service.kind == "ue":
        volumes.insert(0, f"state-{service.name}:/var/lib/imslab/state")
    if volumes:
        yield f"    volumes: [{', '.join(map(_text, volumes))}]"
    yield f"    secrets: [{{source: {service.name}, target: imslab}}]"
    fixed = layout.fixed.get(service.name, {})
    if not fixed:
        yield f"    networks: [{', '.join(service.networks)}]"
        return
    yield "    networks:"
    for network in service.networks:
        yield f"      {network}: {{ipv4_address: {_quoted(fixed[network])}}}"


def _text(value: str) -> str:
    return json.dumps(value)  # a JSON text is a YAML text


def _prefixed(text: str) -> str:
    """Let the first two octets be chosen when the lab starts."""
    rest = ".".join(text.split(".")[2:])
    return f"${{IMSLAB_PREFIX:-{DEFAULT_PREFIX}}}.{rest}"


def _networks(layout: ContainerLayout) -> Iterator[str]:
    yield "# Bridges; none but the last leads anywhere else. Fixed addresses come first, the engine gives the others."
    yield "networks:"
    for name, subnet in layout.subnets.items():
        yield f"  {name}:"
        if name != OUTSIDE:
            yield "    internal: true"
        spots = f"subnet: {_quoted(subnet)}, ip_range: {_quoted(layout.dynamic(name))}"
        yield f"    ipam: {{config: [{{{spots}}}]}}"


def _quoted(value: object) -> str:
    return f'"{_prefixed(str(value))}"'


def _ends(layout: ContainerLayout) -> Iterator[str]:
    yield "# A folder a service, which `init` fills; a container has its own alone."
    yield "secrets:"
    for name in (
        *(service.name for service in layout.services),
        OPERATOR_SERVICE,
        DATABASE_SERVICE,
        "database",
        "grafana",
    ):
        yield f'  {name}: {{file: "${{IMSLAB_SECRETS:-./secrets}}/{name}"}}'
    yield ""
    yield "volumes:"
    yield "  authority: {} # the lab CA and everything sealed; init and lab alone have it"
    yield "  operator: {} # control socket, traces"
    yield "  out: {} # what commands write"
    yield "  database: {}"
    yield "  prometheus: {}"
    yield "  grafana: {}"
    for service in layout.services:
        if service.scales:
            yield f"  slots-{service.name}: {{}} # which instance a container is"
    for service in layout.services:
        if service.kind == "ue":
            yield f"  state-{service.name}: {{}}"


def compose_file(
    config: LabConfig, source: str, *, context: str = "..", source_here: str = "", packages: Mounts | None = None
) -> str:
    """Return the text of a compose file for ``config``.

    ``source`` names the description in comments, ``source_here`` is its path seen from the compose file and
    ``context`` that of the checkout. Raises ``lab.layout.ResolveError`` for one that cannot run in containers.
    """
    layout = ContainerLayout(config)
    packages = packages or Mounts()
    mounts = [f"{folder}:{inside}:ro" for folder, inside in packages.folders]
    command = ["python", "-m", "lab.containers", "--config", "/config/lab.yaml"]
    command += [f"--package={inside}" for inside in packages.path] + [f"--kind={kind}" for kind in packages.kinds]
    head = _HEAD.format(
        name=config.name,
        source=source,
        source_here=source_here or f"../{source}",
        context=context,
        prefix=DEFAULT_PREFIX,
        console_port=CONSOLE_PORT,
        nrf=config.nrf,
        deploy="." if context == ".." else f"{context}/compose",
        init_command=", ".join(map(_text, command)),
        mounts="".join(f"\n      - {_text(mount)}" for mount in mounts),
    )
    parts: Sequence[Iterable[str]] = [
        [head],
        *([*_service(service, layout, mounts), ""] for service in layout.services),
        [*_networks(layout), ""],
        _ends(layout),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def secret_folders(text: str, root: Path) -> int:
    """Make the folders that the secrets of a compose file stand for, content ignored by git; return how many.

    They have to be there before the first container is made: an engine does not make them. Raises ``OSError``.
    """
    names = yaml.safe_load(text)["secrets"]
    for name in names:
        folder = root / name
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n!.gitignore\n", "utf-8")
    return len(names)
