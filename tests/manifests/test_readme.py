import re

from tests.support.documents import shell_lines
from tests.support.manifests.build import MANIFESTS, build, documented_secrets, overlay
from tests.support.manifests.policies import pod_templates
from tests.support.manifests.references import Reference, references

README = (MANIFESTS / "README.md").read_text("utf-8")


def test_folders_and_files_of_the_readme_exist() -> None:
    root = MANIFESTS.parent
    for path in re.findall(r"\bmanifests/[\w./-]+", "\n".join(shell_lines(README))):
        if "github.com" not in README[: README.index(path)].rsplit("\n", 1)[-1]:
            assert (root / path).exists(), path
    for path in re.findall(r"`((?:base|overlays|examples)/[\w./-]*)`", README):
        assert (MANIFESTS / path).exists(), path


def test_what_a_local_cluster_cannot_pull_is_loaded() -> None:
    loaded = {
        word
        for line in shell_lines(README)
        if line.startswith("kind load docker-image")
        for word in line.split()
        if word.startswith("product1m/")
    }
    named = {
        container["image"]
        for pod in pod_templates(overlay("local"))
        for container in pod.containers
    }
    assert loaded == {image for image in named if image.startswith("product1m/")}


def test_the_commands_that_make_secrets_make_those_of_the_table() -> None:
    made = set()
    for line in shell_lines(README):
        found = re.search(r"kubectl -n (\S+) create secret (generic|tls) (\S+)(.*)", line)
        if found:
            namespace, kind, name, rest = found.groups()
            keys = re.findall(r"--from-literal=([\w-]+)=", rest)
            for key in ["", *(keys if kind == "generic" else ["tls.crt", "tls.key"])]:
                made.add(Reference("Secret", namespace, name, key))
    serving = {secret for secret in made if secret.namespace == "product1m-serving"}
    assert made - serving == documented_secrets("production")
    needed = {there for _, there in references(build("serving/production"))}
    assert {secret.name for secret in serving} == {
        there.name for there in needed if there.kind == "Secret"
    }
