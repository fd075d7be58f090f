"""What launch asks of Vertex AI, through the official client, with errors that a user can act on."""

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
_REGION = re.compile(r"[a-z]+(-[a-z]+)+[0-9]+")  # It becomes a part of a host's name.
_LOGIN = "gcloud auth application-default login"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A job as Vertex AI describes it.

    Attributes:
      name: what its launch is called.
      resource: its name as a resource.
      state: without JOB_STATE_, such as RUNNING.
      reason: why it failed or was cancelled; "" where that is not said.
      status: the code of that, one of google.rpc.Code; 0 where there is none.
      workers: how many it has.
      machine: the type of each one's.
      timeout: seconds that it may run.
      created: when.
      started: when it first ran; None: not yet.
      ended: when; None: not yet.
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
        """The number that Vertex AI gave it."""
        return self.resource.rpartition("/")[2]


class Api:
    """Vertex AI in one region for one project.

    Attributes:
      project: its id.
      region: its name.
      credentials: the user's.
    """

    def __init__(self, project: str | None, region: str | None) -> None:
        """Asks for a token, and nothing of Vertex AI yet.

        Args:
          project: None: the one that the credentials name.
          region: where its jobs are.

        Raises:
          UserError: there are no credentials, no project or no region.
          LostService: no token is to be had now.
        """
        if region is None or not _REGION.fullmatch(region):
            problem = "is missing" if region is None else f"={region} is no region"
            raise UserError(f"--region{' ' if region is None else ''}{problem}: name one of Vertex AI, such as europe-west4")
        for name in ("google.auth", "urllib3"):  # They tell of every place where no credentials are, and of every retry.
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self.credentials, default = google.auth.default(scopes=_SCOPES)
            # Here, where it can still be told what is wrong with them.
            self.credentials.refresh(google.auth.transport.requests.Request())
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise UserError(f"no credentials for Google Cloud ({_first(error)}): {_LOGIN}") from None
        except google.auth.exceptions.TransportError as error:
            raise LostService(f"Google's server for tokens does not answer ({_first(error)}): try again") from None
        except google.auth.exceptions.GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise LostService(f"Google's server for tokens gives none ({_first(error)}): try again") from None
            raise UserError(f"the credentials for Google Cloud are no longer good ({_first(error)}): {_LOGIN}") from None
        if project is None and default is None:
            raise UserError("--project is missing, and the credentials name none: name your project of Google Cloud")
        self.project, self.region = project or str(default), region

    @functools.cached_property
    def _client(self) -> Any:
        """The client, which takes seconds to import."""
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

    def submit(self, spec: dict[str, Any]) -> Found:
        """Creates a job.

        Args:
          spec: the CustomJob, in the JSON of the API.

        Raises:
          UserError: Vertex AI refuses it.
          LostService: it does not answer.
        """
        client = self._client
        from google.api_core.exceptions import ResourceExhausted
        from google.cloud.aiplatform_v1.types import CustomJob

        job = CustomJob.from_json(json.dumps(spec))
        with self._asking(f"create job {spec['displayName']}"):
            try:
                return _found(client.create_custom_job(parent=self._parent, custom_job=job, timeout=_TIMEOUT))
            except ResourceExhausted as error:  # Not too many requests, but more machines than are allowed.
                raise UserError(
                    f"cannot create job {spec['displayName']}: {_first(error)}: ask for a larger quota of Vertex AI in "
                    f"{self.region}, or for less"
                ) from None

    def get(self, name: str) -> Found:
        """A job of launch's.

        Args:
          name: of its launch, or the number that Vertex AI gave it.

        Raises:
          UserError: there is none of the name, or it may not be read.
          LostService: Vertex AI does not answer.
        """
        if name.isdecimal():
            client = self._client
            from google.api_core.exceptions import NotFound

            with self._asking(f"get job {name}"), contextlib.suppress(NotFound):
                job = client.get_custom_job(name=f"{self._parent}/customJobs/{name}", timeout=_TIMEOUT)
                if job.labels.get(LABEL) == APP:
                    return _found(job)
        elif re.fullmatch("[-a-z0-9]+", name) and (jobs := self.jobs(f' AND display_name="{name}"')):
            return jobs[0]
        raise UserError(
            f"there is no job {name} in {self.region} of the project {self.project}: "
            f"python -m launch list --target=vertex --project={self.project} --region={self.region} shows them"
        )

    def look(self, job: Found) -> Found:
        """A job as it is now.

        Raises:
          UserError: it may not be read.
          LostService: Vertex AI does not answer.
        """
        with self._asking(f"get job {job.name}"):
            return _found(self._client.get_custom_job(name=job.resource, timeout=_TIMEOUT))

    def jobs(self, condition: str = "") -> list[Found]:
        """All jobs of launch's, the newest first.

        Args:
          condition: what else the API's filter is to say.

        Raises:
          UserError: they may not be read.
          LostService: Vertex AI does not answer.
        """
        with self._asking("list jobs"):
            request = {"parent": self._parent, "filter": f"labels.{LABEL}={APP}{condition}", "page_size": 100}
            found = [_found(job) for job in self._client.list_custom_jobs(request=request, timeout=_TIMEOUT)]
        return sorted(found, key=lambda job: job.created, reverse=True)

    def cancel(self, job: Found) -> None:
        """Has a job end.

        Raises:
          UserError: it has ended, or may not be cancelled.
          LostService: Vertex AI does not answer.
        """
        with self._asking(f"cancel job {job.name}"):
            self._client.cancel_custom_job(name=job.resource, timeout=_TIMEOUT)

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turns the client's errors into those of a user."""
        from google.api_core import exceptions

        try:
            yield
        except exceptions.GoogleAPICallError as error:
            said = _first(error)
            if isinstance(error, exceptions.Forbidden):
                remedy = "ask for the role roles/aiplatform.user"
                if "disabled" in said or "has not been used" in said:
                    remedy = f"gcloud services enable aiplatform.googleapis.com --project={self.project}"
                raise UserError(f"cannot {what}: not allowed in the project {self.project} ({said}): {remedy}") from None
            if isinstance(error, exceptions.Unauthorized):
                raise UserError(f"cannot {what}: Vertex AI does not know you ({said}): {_LOGIN}") from None
            if isinstance(error, exceptions.ServiceUnavailable):
                host = f"{self.region}-aiplatform.googleapis.com"
                raise LostService(
                    f"cannot {what}: {host} does not answer ({said}): try again; is {self.region} the right region?"
                ) from None
            if isinstance(error, exceptions.TooManyRequests | exceptions.ServerError):
                raise LostService(f"cannot {what}: Vertex AI answers {error.code} ({said}): try again") from None
            if isinstance(error, exceptions.NotFound):
                raise UserError(f"cannot {what}: {said}: check the project {self.project} and what the job names") from None
            raise UserError(f"cannot {what}: Vertex AI refuses it ({said}): correct it") from None


def _found(job: Any) -> Found:
    pools = job.job_spec.worker_pool_specs
    return Found(
        name=job.display_name,
        resource=job.name,
        state=getattr(job.state, "name", str(job.state)).removeprefix("JOB_STATE_"),
        reason=" ".join(job.error.message.split()),
        status=job.error.code,
        workers=sum(pool.replica_count for pool in pools),
        machine=pools[0].machine_spec.machine_type if pools else "",
        timeout=job.job_spec.scheduling.timeout.total_seconds() if job.job_spec.scheduling.timeout else 0.0,
        created=job.create_time,
        started=job.start_time,
        ended=job.end_time,
    )


def _first(error: Exception) -> str:
    """The first line of what an error says."""
    text = str(getattr(error, "message", "") or (error.args[0] if error.args else "") or error)
    return text.strip().partition("\n")[0].rstrip(".") or type(error).__name__
