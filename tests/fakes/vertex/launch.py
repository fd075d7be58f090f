"""Runs `python -m launch` with a server of this machine instead of Vertex AI and Cloud Logging, and with shorter pauses.

    python -m tests.fakes.vertex.launch GRPC_ADDRESS HTTP_URL MAX_OUTAGE WORDS…

It changes only the channel that the official client opens, the URL of Cloud Logging, and the waiting times.
"""

import runpy
import sys
from typing import Any

import grpc
from google.auth import _regional_access_boundary_utils

from launch import following
from launch.vertex import logs
from tests.fakes.vertex.server import REGION


def redirect(address: str, url: str) -> None:
    """Redirects requests for Vertex AI in the server's region to `address`, and for Cloud Logging to `url`."""
    from google.cloud.aiplatform_v1.services.job_service.transports import JobServiceGrpcTransport

    def channel(host: str, **_: Any) -> grpc.Channel:
        target = address if host == f"{REGION}-aiplatform.googleapis.com:443" else "127.0.0.1:9"
        return grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])

    JobServiceGrpcTransport.create_channel = channel
    # google-auth would look this up at Google in the background.
    _regional_access_boundary_utils._get_domain = lambda: "127.0.0.1:9"
    logs.URL = f"{url}/v2/entries:list"
    logs.POLL, logs.SETTLING = 0.1, 1.0


if __name__ == "__main__":
    address, url, max_outage = sys.argv[1:4]
    del sys.argv[1:4]
    redirect(address, url)
    following.MAX_OUTAGE = float(max_outage)
    runpy.run_module("launch", run_name="__main__", alter_sys=True)
