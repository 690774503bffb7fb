"""Abort multipart uploads that began more than a day ago; what they sent takes space until then."""

import os
from datetime import UTC, datetime, timedelta

import boto3

s3 = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
limit = datetime.now(UTC) - timedelta(days=1)
for bucket in ("mlflow", "product1m"):
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
    uploads = [upload for page in pages for upload in page.get("Uploads", ())]
    old = [upload for upload in uploads if upload["Initiated"] < limit]
    for upload in old:
        s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    print(f"{bucket}: {len(old)} of {len(uploads)} unfinished uploads aborted")
