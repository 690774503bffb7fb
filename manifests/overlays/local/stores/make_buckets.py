"""Create the buckets of MLflow and of the pipeline if they are missing."""

import os

import boto3
from botocore.exceptions import ClientError

s3 = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
for bucket in ("mlflow", "product1m"):
    try:
        s3.create_bucket(Bucket=bucket)
        print(f"{bucket}: created")
    except ClientError as error:
        if error.response["Error"]["Code"] not in {
            "BucketAlreadyExists",
            "BucketAlreadyOwnedByYou",
        }:
            raise
        print(f"{bucket}: exists")
