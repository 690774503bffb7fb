"""Who may open a connection to whom, as a cluster decides it from its NetworkPolicies."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.manifests.policies import Resource, matches, namespace_of, of_kind


@dataclass(frozen=True)
class Peer:
    """A pod, or a place outside of the cluster that has only an address."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


def reaches(
    resources: Sequence[Resource], source: Peer, target: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Whether egress of the source and ingress of the target both allow it."""
    return _allowed(resources, "egress", source, target, port, protocol) and _allowed(
        resources, "ingress", target, source, port, protocol
    )


def _allowed(
    resources: Sequence[Resource], direction: str, pod: Peer, other: Peer, port: int, protocol: str
) -> bool:
    if pod.address:
        return True
    policies = [
        policy["spec"]
        for policy in of_kind(resources, "NetworkPolicy")
        if namespace_of(policy) == pod.namespace
        and direction.capitalize() in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], pod.labels)
    ]
    if not policies:  # a pod that no policy selects is open
        return True
    return any(
        _covers(rule.get("ports"), port, protocol)
        and any(_is(peer, other, pod.namespace) for peer in rule[_PEERS[direction]])
        for policy in policies
        for rule in policy.get(direction, ())
    )


_PEERS = {"egress": "to", "ingress": "from"}


def _covers(ports: Sequence[Resource] | None, port: int, protocol: str) -> bool:
    return ports is None or any(
        entry["port"] == port and entry.get("protocol", "TCP") == protocol for entry in ports
    )


def _is(peer: Resource, other: Peer, namespace: str) -> bool:
    if "ipBlock" in peer:
        if not other.address:
            return False
        address = ipaddress.ip_address(other.address)
        block = peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(cidr) for cidr in block.get("except", ())
        )
    if other.address:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other.namespace}
        if not matches(peer["namespaceSelector"], labels):
            return False
    elif other.namespace != namespace:
        return False
    return matches(peer.get("podSelector"), other.labels)
