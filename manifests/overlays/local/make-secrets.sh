#!/usr/bin/env bash
# Prints every secret of the local overlay with new random values and stores nothing:
#   manifests/overlays/local/make-secrets.sh | kubectl apply -f -
# Every call prints other values. Do not apply them to a running server: its database has the old ones.
set -euo pipefail

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }
secret() { # namespace name key=value…
    local namespace=$1 name=$2
    shift 2
    echo "---"
    kubectl create secret generic "$name" --namespace "$namespace" --dry-run=client --output yaml \
        "${@/#/--from-literal=}"
}

server=product1m-mlflow
runs=kubeflow
pipeline_password=$(random) catalogue_password=$(random)
admin_key=$(random) mlflow_key=$(random) runs_key=$(random)

secret $server mlflow-database "password=$(random)"
secret $server mlflow-admin username=admin "password=$(random)"
secret $server mlflow-session "secret-key=$(random)"
secret $server mlflow-accounts "pipeline-password=$pipeline_password" "reviewer-password=$(random)" \
    "catalogue-password=$catalogue_password"
secret $server mlflow-s3 AWS_ACCESS_KEY_ID=mlflow "AWS_SECRET_ACCESS_KEY=$mlflow_key"
secret $server seaweedfs-admin AWS_ACCESS_KEY_ID=admin "AWS_SECRET_ACCESS_KEY=$admin_key"
secret $server seaweedfs-s3 "s3.json=$(
    cat << JSON
{"identities": [
  {"name": "admin", "credentials": [{"accessKey": "admin", "secretKey": "$admin_key"}], "actions": ["Admin"]},
  {"name": "mlflow", "credentials": [{"accessKey": "mlflow", "secretKey": "$mlflow_key"}],
   "actions": ["Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"]},
  {"name": "runs", "credentials": [{"accessKey": "runs", "secretKey": "$runs_key"}],
   "actions": ["Read:product1m", "Write:product1m", "List:product1m", "Tagging:product1m"]}
]}
JSON
)"
secret $runs product1m-mlflow MLFLOW_TRACKING_USERNAME=product1m-pipeline \
    "MLFLOW_TRACKING_PASSWORD=$pipeline_password"
secret $runs product1m-mlflow-catalogue MLFLOW_TRACKING_USERNAME=product1m-catalogue \
    "MLFLOW_TRACKING_PASSWORD=$catalogue_password"
secret $runs product1m-s3 AWS_ACCESS_KEY_ID=runs "AWS_SECRET_ACCESS_KEY=$runs_key"
