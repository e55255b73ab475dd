"""Service descriptors read as contracts: who may call what, with which scope, and whether it may be repeated."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, TypeVar, cast

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

import protos
from protos import options_pb2
from sba.errors import ContractError

GROUP = "imslab.contracts"
"""Entry-point group through which the contracts of other distributions are found: one generated module each."""
ANY_CONSUMER = "*"
ANY_PRODUCER = "*"
"""NF type of a service that every network function offers."""
TOKEN_REQUIRED = options_pb2.TOKEN_REQUIRED
TOKEN_EXEMPT_BOOTSTRAP = options_pb2.TOKEN_EXEMPT_BOOTSTRAP
TOKEN_EXEMPT_NOTIFICATION = options_pb2.TOKEN_EXEMPT_NOTIFICATION


@dataclass(frozen=True, slots=True)
class MethodContract:
    """One method: its path on the wire, its authorization rule and its messages."""

    path: str
    name: str
    service: str
    nf_type: str
    service_name: str
    scope: str
    operation_scope: str
    consumers: frozenset[str]
    needs_token: bool
    idempotent: bool
    client_streaming: bool
    server_streaming: bool
    parse_request: Callable[[bytes], Message]
    parse_response: Callable[[bytes], Message]
    descriptor: MethodDescriptor

    def permits(self, nf_types: Iterable[str]) -> bool:
        """Tell whether one of these NF types may call the method (authorization matrix)."""
        return ANY_CONSUMER in self.consumers or not self.consumers.isdisjoint(nf_types)


@dataclass(frozen=True, slots=True)
class ServiceContract:
    """One N-service: the NF type that offers it, its name in NRF profiles and its methods."""

    full_name: str
    nf_type: str
    service_name: str
    methods: Mapping[str, MethodContract]

    @property
    def scopes(self) -> frozenset[str]:
        """Base and operation scopes that its methods ask for."""
        found = {scope for method in self.methods.values() for scope in (method.scope, method.operation_scope)}
        return frozenset(found - {""})

    def scopes_for(self, nf_type: str) -> tuple[str, ...]:
        """Return base and operation scopes that a consumer of this NF type may ask for, in a fixed order."""
        scopes: dict[str, None] = {}
        for method in self.methods.values():
            if method.needs_token and method.permits((nf_type,)):
                scopes[method.scope] = None
                if method.operation_scope:
                    scopes[method.operation_scope] = None
        return tuple(scopes)


@cache
def service_contract(service: ServiceDescriptor) -> ServiceContract:
    """Read the contract of a service out of its descriptor.

    Raises :class:`ContractError` naming the service or the method whose options are missing or
    contradict each other.
    """
    producer = _extension(service.GetOptions(), options_pb2.producer, options_pb2.Producer)
    if not producer.nf_type or not producer.service_name:
        raise ContractError(f"{service.full_name} does not say which NF type offers it")
    methods = {method.name: _method(method, producer) for method in service.methods}
    return ServiceContract(service.full_name, producer.nf_type, producer.service_name, MappingProxyType(methods))


@cache
def method_contract(method: MethodDescriptor) -> MethodContract:
    """Return the contract of one method; raises :class:`ContractError` like :func:`service_contract`."""
    return service_contract(method.containing_service).methods[method.name]


M = TypeVar("M", bound=Message)


def _extension(options: Message, extension: FieldDescriptor, kind: type[M]) -> M:
    value = cast("Any", options).Extensions[extension]
    assert isinstance(value, kind)
    return value


def _method(method: MethodDescriptor, producer: options_pb2.Producer) -> MethodContract:
    rule = _extension(method.GetOptions(), options_pb2.authorization, options_pb2.Authorization)
    if not rule.ByteSize():
        raise ContractError(f"{method.full_name} has no authorization options")
    if rule.token == options_pb2.TOKEN_UNSPECIFIED:
        raise ContractError(f"{method.full_name} does not say whether it needs a token")
    if not rule.consumers:
        raise ContractError(f"{method.full_name} names no permitted consumer")
    needs_token = rule.token == options_pb2.TOKEN_REQUIRED
    if needs_token and not rule.scope:
        raise ContractError(f"{method.full_name} needs a token but names no scope")
    if rule.operation_scope and not rule.operation_scope.startswith(f"{rule.scope}:"):
        raise ContractError(f"{method.full_name}: the operation scope does not extend the base scope")
    service = method.containing_service
    return MethodContract(
        path=f"/{service.full_name}/{method.name}",
        name=method.name,
        service=service.full_name,
        nf_type=producer.nf_type,
        service_name=producer.service_name,
        scope=rule.scope,
        operation_scope=rule.operation_scope,
        consumers=frozenset(rule.consumers),
        needs_token=needs_token,
        idempotent=rule.idempotent,
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        parse_request=message_factory.GetMessageClass(method.input_type).FromString,
        parse_response=message_factory.GetMessageClass(method.output_type).FromString,
        descriptor=method,
    )


@cache
def all_contracts() -> tuple[ServiceContract, ...]:
    """Return the contract of every service in ``protos/`` and then of every module in ``GROUP``, in a fixed order.

    Raises :class:`ContractError` for a module that cannot be loaded, is not generated from a contract, or names a
    service or scope that another contract has: it would say who gets tokens for a service that is not its own.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(protos.__path__) if info.name.endswith("_pb2"))
    found = [contract for name in names for contract in _contracts(importlib.import_module(f"protos.{name}"))]
    taken = {contract.service_name for contract in found}
    scopes = {scope for contract in found for scope in contract.scopes}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        try:
            more = _contracts(entry.load())
        except (ImportError, AttributeError) as error:
            raise ContractError(f"the contract {entry.name} ({entry.value}) cannot be loaded: {error}") from error
        for contract in more:
            named = f"the contract {entry.name} ({entry.value})"
            if contract.service_name in taken:
                raise ContractError(f"{named}: {contract.service_name} is taken")
            if others := sorted(contract.scopes & scopes):
                raise ContractError(f"{named}: the scope {others[0]} is another service's")
        taken.update(contract.service_name for contract in more)
        scopes.update(scope for contract in more for scope in contract.scopes)
        found += more
    return tuple(found)


def _contracts(module: Any) -> list[ServiceContract]:
    return [service_contract(service) for service in module.DESCRIPTOR.services_by_name.values()]
