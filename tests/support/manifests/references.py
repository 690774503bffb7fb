"""What manifests refer to: config maps, secrets, accounts, claims, roles."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.support.manifests.policies import (
    PodTemplate,
    Resource,
    name_of,
    namespace_of,
    of_kind,
    pod_templates,
)


class Reference(NamedTuple):
    """One object, or one key of it."""

    kind: str
    namespace: str
    name: str
    key: str
    """Empty for the whole object."""


def references(resources: Sequence[Resource]) -> Iterator[tuple[str, Reference]]:
    """Who refers, and to what."""
    for pod in pod_templates(resources):
        for kind, name, key in _of_pod(pod):
            yield pod.owner, Reference(kind, pod.namespace, name, key)
    for ingress in of_kind(resources, "Ingress"):
        for tls in ingress["spec"].get("tls", ()):
            for key in ("tls.crt", "tls.key"):
                yield (
                    name_of(ingress),
                    Reference("Secret", namespace_of(ingress), tls["secretName"], key),
                )
    for binding in of_kind(resources, "RoleBinding"):
        namespace = namespace_of(binding)
        yield name_of(binding), Reference("Role", namespace, binding["roleRef"]["name"], "")
        for subject in binding["subjects"]:
            where = subject.get("namespace", namespace)
            yield name_of(binding), Reference(subject["kind"], where, subject["name"], "")


def _of_pod(pod: PodTemplate) -> Iterator[tuple[str, str, str]]:
    yield "ServiceAccount", pod.spec["serviceAccountName"], ""
    for container in pod.containers:
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                yield "ConfigMap", source["configMapRef"]["name"], ""
            if "secretRef" in source:
                yield "Secret", source["secretRef"]["name"], ""
        for variable in container.get("env", ()):
            source = variable.get("valueFrom", {})
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"], source[field]["key"]
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        yield from (("Volume", name, "") for name in mounted)
    for volume in pod.spec.get("volumes", ()):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], ""
        for source in volume.get("projected", {}).get("sources", ()):
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"], ""
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"], ""
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], ""


def existing(resources: Sequence[Resource]) -> set[Reference]:
    """Everything the manifests bring, with its keys."""
    found = set()
    for resource in resources:
        kind, namespace = resource["kind"], namespace_of(resource)
        name = resource["metadata"]["name"]
        found.add(Reference(kind, namespace, name, ""))
        found |= {Reference(kind, namespace, name, key) for key in resource.get("data", ())}
    return found


def volumes_without_source(resources: Sequence[Resource]) -> list[str]:
    """Mounts that name no volume of their pod."""
    found = []
    claims = {
        (name_of(resource), claim["metadata"]["name"])
        for resource in of_kind(resources, "StatefulSet")
        for claim in resource["spec"].get("volumeClaimTemplates", ())
    }
    for pod in pod_templates(resources):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
        found += [
            f"{pod.owner}: mounts {name}"
            for kind, name, _ in _of_pod(pod)
            if kind == "Volume" and name not in volumes and (pod.owner, name) not in claims
        ]
    return found
