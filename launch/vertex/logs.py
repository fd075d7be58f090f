"""Follows the log of a job's workers in Cloud Logging, where Vertex AI writes it."""

import datetime
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import google.auth.exceptions
import requests
from google.auth.transport.requests import AuthorizedSession

from launch.console import tell, write
from launch.following import Poller
from launch.log_lines import Lines
from launch.vertex.api import Api, SubmittedJob
from trainer.errors import LostService, UserError

URL = "https://logging.googleapis.com/v2/entries:list"

POLL = 5.0
"""Seconds between two requests; a project may send sixty a minute."""

LATENESS = 120.0
"""Seconds by which an entry may appear after entries with later time stamps."""

SETTLING = 20.0
"""Seconds without new entries after which the log of a job that has ended is complete."""

_PAGE = 1000
_TIMEOUT = 60.0

_TASK = re.compile("workerpool([01])-([0-9]+)")


def follow(api: Api, submitted: SubmittedJob, *, is_over: Callable[[], bool]) -> None:
    """Prints the log of all workers until the job is over and its log complete.

    Args:
      api: the API of the job's project and region.
      submitted: the job.
      is_over: returns whether the job has ended; it may raise `Ended`.

    Raises:
      Ended: the log cannot be read.
    """
    log = _Log(api, submitted)
    state_poller, log_poller = Poller(), Poller()
    over = False
    last_news = time.monotonic()
    while True:
        if not over:
            over = state_poller.poll(is_over) or False
            last_news = time.monotonic()
        if log_poller.poll(log.print_new) != 0:  # None: the log could not be read.
            last_news = time.monotonic()
        if over and time.monotonic() - last_news >= SETTLING:
            return
        time.sleep(POLL)


class _Log:
    """The log of a job, and which of its entries have been printed.

    Cloud Logging offers no cursor, and an entry may appear after later ones. So each request reads the last `LATENESS` seconds
    again, and skips the entries that were printed before.
    """

    def __init__(self, api: Api, submitted: SubmittedJob) -> None:
        self._session = AuthorizedSession(api.credentials)
        self._project = api.project
        self._job_id = submitted.id
        self._several = submitted.workers > 1
        self._newest = submitted.created
        self._seen: dict[tuple[str, str, str], datetime.datetime] = {}

    def print_new(self) -> int:
        """Prints the new entries; returns their number.

        Raises:
          UserError: Cloud Logging refuses.
          LostService: Cloud Logging does not answer; the entries received before that have been printed.
        """
        count = 0
        since = self._newest - datetime.timedelta(seconds=LATENESS)
        for entry in self._entries(since):
            key = (entry.get("logName", ""), entry["timestamp"], entry.get("insertId", ""))
            if key in self._seen:
                continue
            self._seen[key] = moment = datetime.datetime.fromisoformat(entry["timestamp"])
            self._newest = max(self._newest, moment)
            self._print(entry)
            count += 1
        self._seen = {key: moment for key, moment in self._seen.items() if moment >= since}
        return count

    def _print(self, entry: dict[str, Any]) -> None:
        text = _text(entry)
        task = _TASK.fullmatch(entry.get("resource", {}).get("labels", {}).get("task_name", ""))
        if not task:  # An entry of Vertex AI itself, about machines and restarts.
            tell(f"Vertex AI: {' '.join(text.split())}")
            return
        index = int(task[1]) + int(task[2])  # The first pool holds only the chief.
        lines = Lines(f"[{index}] " if self._several else "")
        write(lines.feed(text.rstrip("\n").encode() + b"\n"))

    def _entries(self, since: datetime.datetime) -> Iterator[dict[str, Any]]:
        moment = since.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        question = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": f'resource.type="ml_job" AND resource.labels.job_id="{self._job_id}" AND timestamp>="{moment}"',
            "orderBy": "timestamp asc",
            "pageSize": _PAGE,
        }
        while True:
            answer = self._ask(question)
            yield from answer.get("entries", [])
            if not answer.get("nextPageToken"):
                return
            question["pageToken"] = answer["nextPageToken"]

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            response = self._session.post(URL, json=question, timeout=_TIMEOUT)
            if response.ok:
                return response.json()
        except google.auth.exceptions.RefreshError as error:
            if getattr(error, "retryable", False):
                raise LostService(
                    f"Cloud Logging cannot be reached, because no token was issued ({error.args[0]}): try again"
                ) from None
            raise UserError(
                f"cannot read the log: your login has expired ({error.args[0]}): run gcloud auth application-default login"
            ) from None
        except (requests.RequestException, google.auth.exceptions.TransportError, ValueError) as error:
            raise LostService(f"Cloud Logging does not answer ({type(error).__name__}): try again") from None
        said = f"{response.status_code}: {_message(response)}"
        if response.status_code == 429 or response.status_code >= 500:
            raise LostService(f"cannot read the log: Cloud Logging answered {said}: try again")
        if response.status_code == 403:
            raise UserError(f"cannot read the log: you lack the permission ({said}): ask for the role roles/logging.viewer")
        raise UserError(f"cannot read the log: Cloud Logging rejected the request ({said}): check the project {self._project}")


def _text(entry: dict[str, Any]) -> str:
    payload = entry.get("jsonPayload", {})
    return entry.get("textPayload") or payload.get("message") or json.dumps(payload)


def _message(response: requests.Response) -> str:
    try:
        return response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return response.reason
