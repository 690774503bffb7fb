import pytest

from tests.support.manifests.build import OVERLAYS, RUNS, overlay
from tests.support.manifests.network import Peer, reaches
from tests.support.manifests.policies import Resource, of_kind, pod_templates


def _pod(resources: list[Resource], owner: str) -> Peer:
    (pod,) = (pod for pod in pod_templates(resources) if pod.owner == owner)
    return Peer(pod.namespace, pod.labels)


def _step(name: str, step: str) -> Peer:
    labels = {"app.kubernetes.io/name": "product1m", "app.kubernetes.io/component": step}
    return Peer(RUNS[name], labels)


API_SERVER = Peer(address="10.96.0.1")
DNS = Peer("kube-system", {"k8s-app": "kube-dns"})
INTERNET = Peer(address="203.0.113.7")
NODE_METADATA = Peer(address="169.254.169.254")
PIPELINES_API = Peer("kubeflow", {"app": "ml-pipeline"})
STRANGER = Peer("default", {"app.kubernetes.io/name": "product1m"})


@pytest.mark.parametrize("name", OVERLAYS)
def test_connections_that_are_needed_are_open_and_others_closed(name: str) -> None:
    resources = overlay(name)
    server = _pod(resources, "Deployment/mlflow")
    migration, roles = (_pod(resources, f"Job/mlflow-{job}") for job in ("migration", "roles"))
    step, ingestion = _step(name, "indexing"), _step(name, "ingestion")
    tls, plain = 443, 80
    for source, target, port, expected in [
        (step, server, 5000, True),
        (roles, server, 5000, True),
        (migration, server, 5000, False),
        (STRANGER, server, 5000, False),
        (Peer(RUNS[name], {"app": "notebook"}), server, 5000, False),
        (step, server, 8080, False),
        (step, PIPELINES_API, 8887, True),
        (step, API_SERVER, tls, True),
        (server, API_SERVER, tls, name == "production"),  # S3 may lie at a private address
        (server, PIPELINES_API, 8888, False),
        (ingestion, INTERNET, plain, True),
        (step, INTERNET, plain, False),
        (server, INTERNET, plain, False),
        (roles, INTERNET, tls, False),
        (step, NODE_METADATA, plain, False),
        (step, NODE_METADATA, tls, False),
        (server, step, 8080, False),
        (step, step, 29500, False),
    ]:
        assert reaches(resources, source, target, port) is expected, (source, target, port)
    for pod in (server, migration, roles, step):
        assert reaches(resources, pod, DNS, 53, "UDP")
        assert not reaches(resources, pod, Peer("default"), 53, "UDP")


def test_only_the_server_and_its_migration_reach_the_local_database() -> None:
    resources = overlay("local")
    postgres = _pod(resources, "StatefulSet/postgres")
    s3 = _pod(resources, "StatefulSet/seaweedfs")
    step = _step("local", "indexing")
    clients = {
        owner: _pod(resources, owner)
        for owner in ("Deployment/mlflow", "Job/mlflow-migration", "Job/mlflow-roles")
    }
    opened = {client for client, pod in clients.items() if reaches(resources, pod, postgres, 5432)}
    assert opened == {"Deployment/mlflow", "Job/mlflow-migration"}
    assert not reaches(resources, step, postgres, 5432)
    assert reaches(resources, clients["Deployment/mlflow"], s3, 8333)
    assert reaches(resources, step, s3, 8333)
    assert not reaches(resources, step, s3, 8888)  # the filer knows no passwords
    assert not reaches(resources, STRANGER, s3, 8333)


def test_the_production_server_reaches_its_stores_outside() -> None:
    resources = overlay("production")
    server, migration = (
        _pod(resources, owner) for owner in ("Deployment/mlflow", "Job/mlflow-migration")
    )
    database = Peer(address="10.20.30.40")
    assert reaches(resources, server, database, 5432)
    assert reaches(resources, migration, database, 5432)
    assert not reaches(resources, _step("production", "indexing"), database, 5432)
    assert reaches(resources, server, INTERNET, 443)
    assert reaches(resources, Peer("ingress-nginx", {"app": "any"}), server, 5000)


def test_the_nodes_of_a_training_job_talk_to_each_other_alone() -> None:
    resources = overlay("production")
    runtime = _pod(resources, "ClusterTrainingRuntime/product1m-torch")
    labels = {**runtime.labels, "jobset.sigs.k8s.io/jobset-name": "capture-pretraining"}
    node = Peer(RUNS["production"], labels)  # JobSet's own label
    assert reaches(resources, node, node, 29500)
    assert reaches(resources, node, node, 41234)
    assert not reaches(resources, _step("production", "indexing"), node, 29500)
    assert reaches(resources, node, _pod(resources, "Deployment/mlflow"), 5000)


def test_every_port_of_a_policy_is_listened_on() -> None:
    elsewhere = {53, 80, 443, 6443, 8080, 8887, 8888}  # DNS, the web, Kubernetes, Pipelines
    for name in OVERLAYS:
        resources = overlay(name)
        listened = {
            port["containerPort"]
            for pod in pod_templates(resources)
            for container in pod.containers
            for port in container.get("ports", ())
        }
        if name == "production":
            listened |= {5432, 8333}  # Postgres outside, the artifact store of Pipelines
        policy_ports = {
            port["port"]
            for policy in of_kind(resources, "NetworkPolicy")
            for direction in ("ingress", "egress")
            for rule in policy["spec"].get(direction, ())
            for port in rule.get("ports", ())
        }
        assert policy_ports <= listened | elsewhere
