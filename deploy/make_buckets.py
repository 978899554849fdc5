"""Make the buckets that are named on the command line, where they do not exist yet."""

from __future__ import annotations

import os
import sys

import boto3


def main() -> None:
    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in sys.argv[1:]:
        if name not in existing:
            client.create_bucket(Bucket=name)


if __name__ == "__main__":
    main()
