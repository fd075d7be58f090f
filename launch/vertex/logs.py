"""Follows the log of a job's workers in Cloud Logging, which Vertex AI writes it to."""

import datetime
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import google.auth.exceptions
import requests
from google.auth.transport.requests import AuthorizedSession

from launch.console import Patience, tell, write
from launch.log_lines import Lines
from launch.vertex.api import Api, Found
from trainer.errors import LostService, UserError

URL = "https://logging.googleapis.com/v2/entries:list"

# Seconds: between two looks (a project may ask sixty times a minute); that an entry may come after later ones; and that the log is
# read on after its job has ended.
POLL = 5.0
LATENESS = 120.0
SETTLING = 20.0

_PAGE = 1000
_TIMEOUT = 60.0

_TASK = re.compile("workerpool([01])-([0-9]+)")


def follow(api: Api, job: Found, *, is_over: Callable[[], bool]) -> None:
    """Prints what all workers write until the job is over and its log complete.

    Args:
      api: where the job is.
      job: the job.
      is_over: whether it has ended.

    Raises:
      Ended: the job cannot be followed.
    """
    log = _Log(api, job)
    job_patience, log_patience = Patience(), Patience()
    over = False
    last_news = time.monotonic()
    while True:
        if not over:
            over = job_patience.ask(is_over) or False
            last_news = time.monotonic()
        if log_patience.ask(log.print_new) != 0:  # None where it could not be read.
            last_news = time.monotonic()
        if over and time.monotonic() - last_news >= SETTLING:
            return
        time.sleep(POLL)


class _Log:
    """How far the log of a job has been read.

    Cloud Logging gives no place to go on from, and an entry may appear after later ones. So the latest stretch is read again each
    time, and what was there before is left out.
    """

    def __init__(self, api: Api, job: Found) -> None:
        self._session = AuthorizedSession(api.credentials)
        self._project = api.project
        self._job = job.id
        self._several = job.workers > 1
        self._newest = job.created
        self._seen: dict[tuple[str, str, str], datetime.datetime] = {}

    def print_new(self) -> int:
        """Prints the entries that have come; returns how many.

        Raises:
          UserError: they may not be read.
          LostService: Cloud Logging does not answer; those that it gave are printed.
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
        if not task:  # Vertex AI's own, about machines and restarts.
            tell(f"Vertex AI: {' '.join(text.split())}")
            return
        index = int(task[1]) + int(task[2])  # The first pool has just the chief.
        lines = Lines(f"[{index}] " if self._several else "")
        write(lines.feed(text.rstrip("\n").encode() + b"\n"))

    def _entries(self, since: datetime.datetime) -> Iterator[dict[str, Any]]:
        moment = since.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        question = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": f'resource.type="ml_job" AND resource.labels.job_id="{self._job}" AND timestamp>="{moment}"',
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
                raise LostService(f"Cloud Logging cannot be asked ({error.args[0]}): try again") from None
            raise UserError(
                f"cannot read the log: no longer logged in ({error.args[0]}): gcloud auth application-default login"
            ) from None
        except (requests.RequestException, google.auth.exceptions.TransportError, ValueError) as error:
            raise LostService(f"Cloud Logging does not answer ({type(error).__name__}): try again") from None
        said = f"{response.status_code}: {_message(response)}"
        if response.status_code == 429 or response.status_code >= 500:
            raise LostService(f"cannot read the log: Cloud Logging answers {said}: try again")
        if response.status_code == 403:
            raise UserError(f"cannot read the log: not allowed ({said}): ask for the role roles/logging.viewer")
        raise UserError(f"cannot read the log: Cloud Logging refuses it ({said}): check the project {self._project}")


def _text(entry: dict[str, Any]) -> str:
    payload = entry.get("jsonPayload", {})
    return entry.get("textPayload") or payload.get("message") or json.dumps(payload)


def _message(response: requests.Response) -> str:
    try:
        return response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return response.reason
