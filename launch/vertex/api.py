"""The requests of launch to Vertex AI, through the official client, with errors that tell the user what to do."""

import contextlib
import dataclasses
import datetime
import functools
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import google.auth
import google.auth.exceptions
import google.auth.transport.requests

from launch.vertex.spec import APP, LABEL
from trainer.errors import LostService, UserError

_TIMEOUT = 60.0  # Seconds to wait for an answer.
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_REGION = re.compile(r"[a-z]+(-[a-z]+)+[0-9]+")  # It becomes part of a host name.
_LOGIN = "gcloud auth application-default login"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job that was submitted, as Vertex AI describes it.

    Attributes:
      name: the job's name, the display name of the CustomJob.
      resource: the resource name, projects/…/locations/…/customJobs/NUMBER.
      state: the state without JOB_STATE_, such as RUNNING.
      reason: why the job failed or was cancelled, or "".
      status: the code of `reason`, from google.rpc.Code; 0: none.
      workers: the number of workers.
      machine: the machine type of each worker.
      timeout: the time limit in seconds.
      created: when the job was created.
      started: when the job first ran; None: not yet.
      ended: when the job ended; None: not yet.
    """

    name: str
    resource: str
    state: str
    reason: str
    status: int
    workers: int
    machine: str
    timeout: float
    created: datetime.datetime
    started: datetime.datetime | None
    ended: datetime.datetime | None

    @property
    def id(self) -> str:
        """The number that Vertex AI gave the job."""
        return self.resource.rpartition("/")[2]


class Api:
    """The API of Vertex AI for one project and region.

    Attributes:
      project: the project id.
      region: the region's name.
      credentials: the user's credentials for Google Cloud.
    """

    def __init__(self, project: str | None, region: str | None) -> None:
        """Requests a token; does not connect to Vertex AI yet.

        Args:
          project: the project id; None: the credentials' own.
          region: the region of the jobs.

        Raises:
          UserError: the credentials, the project or the region are missing or invalid.
          LostService: Google's token server does not answer.
        """
        if region is None:
            raise UserError("--region is missing: give a region of Vertex AI, such as europe-west4")
        if not _REGION.fullmatch(region):
            raise UserError(f"--region must be a region of Vertex AI, such as europe-west4, got {region!r}")
        for name in ("google.auth", "urllib3"):  # They log each source without credentials, and each retry.
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self.credentials, default = google.auth.default(scopes=_SCOPES)
            # The first refresh happens here, because the client explains its failure less well.
            self.credentials.refresh(google.auth.transport.requests.Request())
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise UserError(f"no credentials for Google Cloud ({_first_line(error)}): run {_LOGIN}") from None
        except google.auth.exceptions.TransportError as error:
            raise LostService(f"Google's token server does not answer ({_first_line(error)}): try again") from None
        except google.auth.exceptions.GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise LostService(f"Google's token server issues no token ({_first_line(error)}): try again") from None
            raise UserError(f"the credentials for Google Cloud are no longer valid ({_first_line(error)}): run {_LOGIN}") from None
        if project is None and default is None:
            raise UserError("--project is missing, and the credentials name no project: give your Google Cloud project")
        self.project, self.region = project or str(default), region

    @functools.cached_property
    def _client(self) -> Any:
        """The official client, created when it is first used, because its import takes seconds."""
        try:
            from google.cloud.aiplatform_v1.services.job_service import JobServiceClient
        except ImportError as error:
            raise UserError(
                f"--target=vertex needs {error.name}, which is not installed: pip install 'poster-trainer[vertex]'"
            ) from None
        return JobServiceClient(
            credentials=self.credentials, client_options={"api_endpoint": f"{self.region}-aiplatform.googleapis.com"}
        )

    @property
    def _parent(self) -> str:
        return f"projects/{self.project}/locations/{self.region}"

    def submit(self, spec: dict[str, Any]) -> SubmittedJob:
        """Creates a job.

        Args:
          spec: the CustomJob, in the API's JSON form.

        Raises:
          UserError: Vertex AI refuses.
          LostService: Vertex AI does not answer.
        """
        client = self._client
        from google.api_core.exceptions import ResourceExhausted
        from google.cloud.aiplatform_v1.types import CustomJob

        custom_job = CustomJob.from_json(json.dumps(spec))
        with self._asking(f"create job {spec['displayName']}"):
            try:
                return _submitted(client.create_custom_job(parent=self._parent, custom_job=custom_job, timeout=_TIMEOUT))
            except ResourceExhausted as error:  # The quota of machines, not of requests.
                raise UserError(
                    f"cannot create job {spec['displayName']} ({_first_line(error)}): request a larger Vertex AI quota in "
                    f"{self.region}, or use fewer or smaller machines"
                ) from None

    def get(self, name: str) -> SubmittedJob:
        """Returns a job that launch created.

        Args:
          name: the job's name, or the number that Vertex AI gave it.

        Raises:
          UserError: no such job exists, or Vertex AI refuses.
          LostService: Vertex AI does not answer.
        """
        if name.isdecimal():
            client = self._client
            from google.api_core.exceptions import NotFound

            with self._asking(f"get job {name}"), contextlib.suppress(NotFound):
                custom_job = client.get_custom_job(name=f"{self._parent}/customJobs/{name}", timeout=_TIMEOUT)
                if custom_job.labels.get(LABEL) == APP:
                    return _submitted(custom_job)
        elif re.fullmatch("[-a-z0-9]+", name) and (jobs := self.jobs(f' AND display_name="{name}"')):
            return jobs[0]
        raise UserError(
            f"job {name} does not exist in {self.region} of the project {self.project}: choose one of "
            f"python -m launch list --target=vertex --project={self.project} --region={self.region}"
        )

    def refresh(self, submitted: SubmittedJob) -> SubmittedJob:
        """Returns the current state of a job.

        Args:
          submitted: the job as it was before.

        Raises:
          UserError: Vertex AI refuses.
          LostService: Vertex AI does not answer.
        """
        with self._asking(f"get job {submitted.name}"):
            return _submitted(self._client.get_custom_job(name=submitted.resource, timeout=_TIMEOUT))

    def jobs(self, condition: str = "") -> list[SubmittedJob]:
        """Returns the jobs that launch created, the newest first.

        Args:
          condition: text to append to the filter of the request.

        Raises:
          UserError: Vertex AI refuses.
          LostService: Vertex AI does not answer.
        """
        with self._asking("list jobs"):
            request = {"parent": self._parent, "filter": f"labels.{LABEL}={APP}{condition}", "page_size": 100}
            found = [_submitted(each) for each in self._client.list_custom_jobs(request=request, timeout=_TIMEOUT)]
        return sorted(found, key=lambda each: each.created, reverse=True)

    def cancel(self, submitted: SubmittedJob) -> None:
        """Cancels a job.

        Args:
          submitted: the job.

        Raises:
          UserError: the job has ended, or Vertex AI refuses.
          LostService: Vertex AI does not answer.
        """
        with self._asking(f"cancel job {submitted.name}"):
            self._client.cancel_custom_job(name=submitted.resource, timeout=_TIMEOUT)

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turns the client's errors into errors for the user.

        Args:
          what: the request, as the error names it after "cannot".
        """
        from google.api_core import exceptions

        try:
            yield
        except exceptions.GoogleAPICallError as error:
            said = _first_line(error)
            if isinstance(error, exceptions.Forbidden):
                remedy = "ask for the role roles/aiplatform.user"
                if "disabled" in said or "has not been used" in said:
                    remedy = f"run gcloud services enable aiplatform.googleapis.com --project={self.project}"
                raise UserError(
                    f"cannot {what}: you lack the permission in the project {self.project} ({said}): {remedy}"
                ) from None
            if isinstance(error, exceptions.Unauthorized):
                raise UserError(f"cannot {what}: Vertex AI rejects your credentials ({said}): run {_LOGIN}") from None
            if isinstance(error, exceptions.ServiceUnavailable):
                host = f"{self.region}-aiplatform.googleapis.com"
                raise LostService(
                    f"cannot {what}: {host} does not answer ({said}): try again, or check --region={self.region}"
                ) from None
            if isinstance(error, exceptions.TooManyRequests | exceptions.ServerError):
                raise LostService(f"cannot {what}: Vertex AI answered {error.code} ({said}): try again") from None
            if isinstance(error, exceptions.NotFound):
                raise UserError(
                    f"cannot {what} ({said}): check the project {self.project}, and the resources that the job names"
                ) from None
            raise UserError(f"cannot {what}: Vertex AI rejected it ({said}): correct what it names") from None


def _submitted(custom_job: Any) -> SubmittedJob:
    spec, error = custom_job.job_spec, custom_job.error
    pools = spec.worker_pool_specs
    return SubmittedJob(
        name=custom_job.display_name,
        resource=custom_job.name,
        state=getattr(custom_job.state, "name", str(custom_job.state)).removeprefix("JOB_STATE_"),
        reason=" ".join(error.message.split()),
        status=error.code,
        workers=sum(pool.replica_count for pool in pools),
        machine=pools[0].machine_spec.machine_type if pools else "",
        timeout=spec.scheduling.timeout.total_seconds() if spec.scheduling.timeout else 0.0,
        created=custom_job.create_time,
        started=custom_job.start_time,
        ended=custom_job.end_time,
    )


def _first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    text = str(getattr(error, "message", "") or (error.args[0] if error.args else "") or error)
    return text.strip().partition("\n")[0].rstrip(".") or type(error).__name__
