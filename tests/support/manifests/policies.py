"""Rules that every manifest must keep; each returns what breaks it, empty if nothing does."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Resource = dict[str, Any]
Finding = str

LONG_RUNNING = ("Deployment", "StatefulSet", "DaemonSet")
WORKLOADS = (*LONG_RUNNING, "Job", "ClusterTrainingRuntime")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|PRIVATE|CREDENTIAL", re.IGNORECASE)
SECRET_IN_URL = re.compile(r"://[^/\s:@]+:[^/\s@$]+@")


@dataclass(frozen=True)
class PodTemplate:
    """The pods of one workload."""

    owner: str
    """Kind, slash, name."""
    namespace: str
    labels: Mapping[str, str]
    spec: Resource

    @property
    def containers(self) -> list[Resource]:
        """Init containers first."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def describe(self, container: Resource) -> str:
        """The container, for a finding."""
        return f"{self.owner}, container {container['name']}"


def name_of(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def namespace_of(resource: Resource) -> str:
    return str(resource["metadata"].get("namespace", ""))


def of_kind(resources: Sequence[Resource], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


def pod_templates(resources: Sequence[Resource]) -> Iterator[PodTemplate]:
    for resource in of_kind(resources, *WORKLOADS):
        if resource["kind"] == "ClusterTrainingRuntime":
            jobs = resource["spec"]["template"]["spec"]["replicatedJobs"]
            # Trainer's pods get the namespace of the TrainJob, that is of the runs.
            runs = next(
                (
                    namespace_of(account)
                    for account in of_kind(resources, "ServiceAccount")
                    if account["metadata"]["name"] == "product1m-training"
                ),
                "",
            )
            templates = [(job["template"]["spec"]["template"], runs) for job in jobs]
        else:
            templates = [(resource["spec"]["template"], namespace_of(resource))]
        for template, namespace in templates:
            yield PodTemplate(
                name_of(resource), namespace, template["metadata"]["labels"], template["spec"]
            )


def _containers(resources: Sequence[Resource]) -> Iterator[tuple[str, PodTemplate, Resource]]:
    for pod in pod_templates(resources):
        for container in pod.containers:
            yield pod.describe(container), pod, container


def nothing_runs_as_root(resources: Sequence[Resource]) -> list[Finding]:
    found = []
    for pod in pod_templates(resources):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True:
            found.append(f"{pod.owner}: runAsNonRoot is not true")
        users = [context.get("runAsUser")]
        users += [
            container.get("securityContext", {}).get("runAsUser", context.get("runAsUser"))
            for container in pod.containers
        ]
        if not all(users):  # None leaves it to the image, 0 is root
            found.append(f"{pod.owner}: runAsUser is {users}")
    return found


def pods_keep_to_restricted(resources: Sequence[Resource]) -> list[Finding]:
    """The rest of the Pod Security Standard `restricted`, and the read-only root that it lacks."""
    found = []
    for pod in pod_templates(resources):
        if pod.spec.get("securityContext", {}).get("seccompProfile") != {"type": "RuntimeDefault"}:
            found.append(f"{pod.owner}: seccomp is not RuntimeDefault")
        found += [
            f"{pod.owner}: {key}"
            for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers")
            if pod.spec.get(key)
        ]
        found += [
            f"{pod.owner}: volume {volume['name']} is {kind}"
            for volume in pod.spec.get("volumes", ())
            for kind in volume.keys() - {"name"}
            if kind not in {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"}
        ]
    for where, _, container in _containers(resources):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            found.append(f"{where}: may gain privileges")
        if context.get("capabilities") != {"drop": ["ALL"]}:
            found.append(f"{where}: capabilities are {context.get('capabilities')}")
        if context.get("readOnlyRootFilesystem") is not True:
            found.append(f"{where}: may write its root file system")
        found += [
            f"{where}: a port of the node" for p in container.get("ports", ()) if "hostPort" in p
        ]
    return found


def images_name_a_version(resources: Sequence[Resource]) -> list[Finding]:
    found = []
    for where, _, container in _containers(resources):
        image = container["image"]
        digest = re.search(r"@sha256:[0-9a-f]{64}$", image)
        tag = re.search(r":([\w][\w.-]*)$", image)
        if not digest and (not tag or tag[1] == "latest"):
            found.append(f"{where}: {image} can be another one tomorrow")
    return found


def resources_are_bounded(resources: Sequence[Resource]) -> list[Finding]:
    found = []
    for where, pod, container in _containers(resources):
        for kind in ("requests", "limits"):
            given = container.get("resources", {}).get(kind, {})
            found += [
                f"{where}: no {kind} of {what}" for what in ("cpu", "memory") if what not in given
            ]
        found += [
            f"{where}: emptyDir {volume['name']} has no limit"
            for volume in pod.spec.get("volumes", ())
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]
        ]
    return found


def servers_are_probed(resources: Sequence[Resource]) -> list[Finding]:
    found = []
    for resource in of_kind(resources, *LONG_RUNNING):
        for container in resource["spec"]["template"]["spec"]["containers"]:
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in PROBES:
                if probe not in container:
                    found.append(f"{name_of(resource)}, {container['name']}: no {probe}")
                elif (http := container[probe].get("httpGet")) and http["port"] not in ports:
                    found.append(f"{name_of(resource)}: {probe} asks port {http['port']}")
    return found


def secrets_are_references(resources: Sequence[Resource]) -> list[Finding]:
    found = [f"{name_of(secret)}: is in the repository" for secret in of_kind(resources, "Secret")]
    for where, _, container in _containers(resources):
        found += [
            f"{where}: {variable['name']} is a literal"
            for variable in container.get("env", ())
            if SECRET_NAME.search(variable["name"]) and "value" in variable
        ]
    for config in of_kind(resources, "ConfigMap"):
        for key, value in config["data"].items():
            if SECRET_NAME.search(key) or SECRET_IN_URL.search(value):
                found.append(f"{name_of(config)}: {key} looks like a secret")
    return found


def matches(selector: Resource | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; the empty one takes all."""
    selector = selector or {}
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", ()):
        there = expression["key"] in labels
        value = labels.get(expression["key"], "")
        fits = {
            "In": there and value in expression.get("values", ()),
            "NotIn": value not in expression.get("values", ()),
            "Exists": there,
            "DoesNotExist": not there,
        }[expression["operator"]]
        if not fits:
            return False
    return True


def _selected(
    resources: Sequence[Resource], namespace: str, selector: Resource
) -> list[PodTemplate]:
    return [
        pod
        for pod in pod_templates(resources)
        if pod.namespace == namespace and matches(selector, pod.labels)
    ]


def services_select_pods(resources: Sequence[Resource]) -> list[Finding]:
    found = []
    for service in of_kind(resources, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        pods = _selected(resources, namespace_of(service), selector)
        if not pods:
            found.append(f"{name_of(service)}: selects no pod")
        for pod in pods:
            known = {
                port[key]
                for container in pod.spec["containers"]
                for port in container.get("ports", ())
                for key in ("name", "containerPort")
            }
            found += [
                f"{name_of(service)}: {pod.owner} has no port {port['targetPort']}"
                for port in service["spec"]["ports"]
                if port["targetPort"] not in known
            ]
    for ingress in of_kind(resources, "Ingress"):
        services = {
            service["metadata"]["name"]: {port["name"] for port in service["spec"]["ports"]}
            for service in of_kind(resources, "Service")
            if namespace_of(service) == namespace_of(ingress)
        }
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                if backend["port"]["name"] not in services.get(backend["name"], ()):
                    found.append(f"{name_of(ingress)}: no service {backend}")
    return found


def budgets_leave_a_replica(resources: Sequence[Resource]) -> list[Finding]:
    found = []
    replicated = [
        deployment
        for deployment in of_kind(resources, "Deployment")
        if deployment["spec"]["replicas"] > 1
    ]
    budgets = of_kind(resources, "PodDisruptionBudget")
    for deployment in replicated:
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        mine = [
            budget
            for budget in budgets
            if namespace_of(budget) == namespace_of(deployment)
            and matches(budget["spec"]["selector"], labels)
        ]
        if not mine:
            found.append(f"{name_of(deployment)}: no disruption budget")
        found += [
            f"{name_of(budget)}: no replica may ever go"
            for budget in mine
            if budget["spec"]["minAvailable"] >= deployment["spec"]["replicas"]
        ]
    if len(budgets) != len(replicated):
        found.append(f"{len(budgets)} disruption budgets for {len(replicated)} deployments")
    return found


def namespaces_deny_by_default(resources: Sequence[Resource]) -> list[Finding]:
    """Every pod is closed in both directions unless a policy opens something."""
    found = []
    for pod in pod_templates(resources):
        closed = {
            direction
            for policy in of_kind(resources, "NetworkPolicy")
            if namespace_of(policy) == pod.namespace
            and matches(policy["spec"]["podSelector"], pod.labels)
            and not {"ingress", "egress"} & policy["spec"].keys()
            for direction in policy["spec"]["policyTypes"]
        }
        if closed != {"Ingress", "Egress"}:
            found.append(f"{pod.owner}: default-deny covers {sorted(closed)}")
    enforced = "pod-security.kubernetes.io/enforce"
    found += [
        f"{name_of(namespace)}: does not enforce `restricted`"
        for namespace in of_kind(resources, "Namespace")
        if namespace["metadata"]["labels"].get(enforced) != "restricted"
    ]
    return found


def accounts_have_least_rights(resources: Sequence[Resource]) -> list[Finding]:
    found = [
        f"{name_of(role)}: reaches every namespace" for role in of_kind(resources, "ClusterRole")
    ]
    bound = {
        (namespace_of(binding), subject["name"])
        for binding in of_kind(resources, "RoleBinding")
        for subject in binding["subjects"]
    }
    for role in of_kind(resources, "Role"):
        for rule in role["rules"]:
            if "*" in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]):
                found.append(f"{name_of(role)}: wildcard in {rule}")
            named = {"secrets", "configmaps"} & set(rule["resources"])
            if named and (not rule.get("resourceNames") or rule["verbs"] != ["get"]):
                found.append(f"{name_of(role)}: may do more than read named {sorted(named)}")
            if {"pods/exec", "pods/attach", "pods/portforward"} & set(rule["resources"]):
                found.append(f"{name_of(role)}: may enter pods")
    for pod in pod_templates(resources):
        token = pod.spec.get("automountServiceAccountToken", True)
        if token and (pod.namespace, pod.spec.get("serviceAccountName")) not in bound:
            found.append(f"{pod.owner}: mounts a token that it has no use for")
        if pod.spec.get("serviceAccountName", "default") == "default":
            found.append(f"{pod.owner}: has no account of its own")
        if pod.spec.get("enableServiceLinks") is not False:
            found.append(f"{pod.owner}: services set its environment (MLFLOW_PORT=tcp://…)")
    return found


POLICIES: tuple[Callable[[Sequence[Resource]], list[Finding]], ...] = (
    nothing_runs_as_root,
    pods_keep_to_restricted,
    images_name_a_version,
    resources_are_bounded,
    servers_are_probed,
    secrets_are_references,
    services_select_pods,
    budgets_leave_a_replica,
    namespaces_deny_by_default,
    accounts_have_least_rights,
)
