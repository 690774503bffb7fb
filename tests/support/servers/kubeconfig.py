"""A file that leads Kubernetes' clients to a server of the tests."""

from pathlib import Path

import yaml


def write_kubeconfig(folder: Path, url: str, namespace: str = "default") -> Path:
    """Write `kubeconfig` for a server at `url`, any account, and a namespace."""
    context = {"cluster": "test", "user": "test", "namespace": namespace}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": context}],
        "current-context": "test",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path
