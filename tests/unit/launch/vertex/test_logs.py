"""The log of a job in Cloud Logging: no entry is lost or repeated, and the log of an ended job is read to its end."""

import datetime
import types
from typing import Any

import google.auth.exceptions
import pytest
import requests

from launch.vertex import logs
from trainer.errors import LostService, UserError

BEGAN = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def entry(text, *, second=0.0, task="workerpool0-0", number=None, **fields):
    moment = (BEGAN + datetime.timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    resource = {"labels": {"task_name": task}}
    return {"timestamp": moment, "insertId": number or text, "logName": "log", "resource": resource, "textPayload": text} | fields


class Answer:
    """An answer of Cloud Logging."""

    def __init__(self, status, body, reason="why"):
        self.status_code, self.reason, self._body = status, reason, body
        self.ok = status < 400

    def json(self):
        if isinstance(self._body, Exception):
            raise self._body
        return self._body


class Service:
    """Cloud Logging, its clock and its session."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.asked = []
        self.entries = []
        self.answers = []  # Instead of the entries.
        self.at = {}  # What happens at a time.
        self.page = None
        monkeypatch.setattr(logs, "AuthorizedSession", self._session)
        monkeypatch.setattr(logs, "time", types.SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))

    def _session(self, credentials):
        assert credentials == "credentials"
        return self

    def _sleep(self, seconds):
        assert seconds == 5.0  # A project may send sixty requests a minute.
        assert self.now < 2000, "the log does not end"
        self.now += seconds
        self.at.pop(self.now - 1000, lambda: None)()

    def post(self, url, *, json, timeout):
        assert url == "https://logging.googleapis.com/v2/entries:list"
        assert 1 < timeout <= 60
        self.asked.append(dict(json))
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        since = datetime.datetime.fromisoformat(json["filter"].partition('timestamp>="')[2].rstrip('"'))
        found = [each for each in self.entries if datetime.datetime.fromisoformat(each["timestamp"]) >= since]
        found.sort(key=lambda each: each["timestamp"])
        first = int(json.get("pageToken", 0))
        last = len(found) if self.page is None else first + self.page
        answer = {"entries": found[first:last]} if found[first:last] else {}
        return Answer(200, answer | ({"nextPageToken": str(last)} if last < len(found) else {}))


@pytest.fixture
def service(monkeypatch):
    return Service(monkeypatch)


API: Any = types.SimpleNamespace(credentials="credentials", project="films")


def job(workers) -> Any:
    return types.SimpleNamespace(id="77", workers=workers, created=BEGAN)


def log(workers=2):
    return logs._Log(API, job(workers))


def follow(is_over):
    logs.follow(API, job(workers=1), is_over=is_over)


def test_entries_of_workers_have_their_index_and_those_of_vertex_ai_are_messages(service, capsysbinary):
    service.entries = [
        entry("chief", second=1),
        entry("first\n\n", second=2, task="workerpool1-0"),
        entry("second", second=3, task="workerpool1-1"),
        entry("10%\r20%", second=4),
        entry("two\nlines", second=5),
        entry("Job is\nrunning.", second=6, task="service"),
        entry("no labels", second=7, resource={}),
    ]
    assert log().print_new() == 7
    out, err = capsysbinary.readouterr()
    assert out == b"[0] chief\n[1] first\n[2] second\n[0] 20%\n[0] two\n[0] lines\n"
    assert err == b"launch: Vertex AI: Job is running.\nlaunch: Vertex AI: no labels\n"


def test_a_single_worker_has_no_index(service, capsysbinary):
    service.entries = [entry("chief")]
    log(workers=1).print_new()
    assert capsysbinary.readouterr().out == b"chief\n"


def test_an_entry_may_be_structured(service, capsysbinary):
    service.entries = [
        entry("", number="1", second=1, jsonPayload={"message": "said", "level": "INFO"}),
        entry("", number="2", second=2, jsonPayload={"level": "INFO"}),
        {"timestamp": "2026-01-01T12:00:03Z"},
    ]
    assert log(workers=1).print_new() == 3
    out, err = capsysbinary.readouterr()
    assert out == b'said\n{"level": "INFO"}\n'
    assert err == b"launch: Vertex AI: {}\n"


def test_the_request_asks_for_the_jobs_entries_of_the_last_two_minutes(service):
    found = log()
    service.entries = [entry("one", second=100.5)]
    found.print_new()
    found.print_new()
    first, second = service.asked
    assert first == {
        "resourceNames": ["projects/films"],
        "filter": 'resource.type="ml_job" AND resource.labels.job_id="77" AND timestamp>="2026-01-01T11:58:00.000000Z"',
        "orderBy": "timestamp asc",
        "pageSize": 1000,
    }
    assert second["filter"].endswith('timestamp>="2026-01-01T11:59:40.500000Z"')


def test_a_late_entry_is_printed_and_none_twice(service, capsysbinary):
    found = log(workers=1)
    service.entries = [entry("200", second=200)]
    assert found.print_new() == 1
    service.entries += [entry("80", second=80), entry("300", second=300)]  # Two minutes late.
    assert found.print_new() == 2
    service.entries += [entry("180", second=180)]
    assert found.print_new() == 1
    assert found.print_new() == 0
    assert capsysbinary.readouterr().out == b"200\n80\n300\n180\n"


def test_entries_of_one_moment_are_told_apart(service):
    same = entry("same", number="1")
    service.entries = [same, same | {"insertId": "2"}, same | {"logName": "other"}, same]
    assert log().print_new() == 3


def test_what_is_remembered_of_a_long_log_is_bounded(service):
    found = log()
    for second in range(0, 10_000, 100):
        service.entries = [entry(str(second), second=second)]
        found.print_new()
    assert len(found._seen) <= 3


def test_all_pages_of_an_answer_are_read(service, capsysbinary):
    service.page = 2
    service.entries = [entry(str(number), second=number) for number in range(5)]
    assert log(workers=1).print_new() == 5
    assert [question.get("pageToken") for question in service.asked] == [None, "2", "4"]
    assert capsysbinary.readouterr().out == b"0\n1\n2\n3\n4\n"


def test_entries_before_an_outage_are_printed_and_not_repeated(service, capsysbinary):
    first = Answer(200, {"entries": [entry("one", second=1)], "nextPageToken": "1"})
    service.answers = [first, Answer(503, {"error": {"message": "away"}})]
    found = log(workers=1)
    with pytest.raises(LostService):
        found.print_new()
    service.entries = [entry("one", second=1), entry("two", second=2)]
    assert found.print_new() == 1
    assert capsysbinary.readouterr().out == b"one\ntwo\n"


LOGIN = "run gcloud auth application-default login"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (
            Answer(403, {"error": {"message": "no"}}),
            UserError,
            "cannot read the log: you lack the permission (403: no): ask for the role roles/logging.viewer",
        ),
        (
            Answer(404, {"error": {"message": "no"}}),
            UserError,
            "cannot read the log: Cloud Logging rejected the request (404: no): check the project films",
        ),
        (
            Answer(428, {"error": {"message": "no"}}),
            UserError,
            "cannot read the log: Cloud Logging rejected the request (428: no): check the project films",
        ),
        (
            Answer(429, {"error": {"message": "slowly"}}),
            LostService,
            "cannot read the log: Cloud Logging answered 429: slowly: try again",
        ),
        (Answer(500, ValueError()), LostService, "cannot read the log: Cloud Logging answered 500: why: try again"),
        (Answer(503, {"error": {}}), LostService, "cannot read the log: Cloud Logging answered 503: why: try again"),
        (Answer(503, []), LostService, "cannot read the log: Cloud Logging answered 503: why: try again"),
        (Answer(200, ValueError()), LostService, "Cloud Logging does not answer (ValueError): try again"),
        (requests.ConnectionError(), LostService, "Cloud Logging does not answer (ConnectionError): try again"),
        (requests.Timeout(), LostService, "Cloud Logging does not answer (Timeout): try again"),
        (
            google.auth.exceptions.TransportError("x"),
            LostService,
            "Cloud Logging does not answer (TransportError): try again",
        ),
        (
            google.auth.exceptions.RefreshError("busy", retryable=True),
            LostService,
            "Cloud Logging cannot be reached, because no token was issued (busy): try again",
        ),
        (
            google.auth.exceptions.RefreshError("expired"),
            UserError,
            f"cannot read the log: your login has expired (expired): {LOGIN}",
        ),
    ],
)
def test_an_error_says_what_to_do(service, answer, kind, says):
    service.answers = [answer]
    with pytest.raises(kind) as caught:
        log().print_new()
    assert str(caught.value) == says


def test_the_log_of_an_ended_job_is_complete_after_twenty_quiet_seconds(service, capsysbinary):
    service.entries = [entry("one", second=1)]
    service.at[15] = lambda: service.entries.append(entry("late", second=2))
    follow(lambda: True)
    assert service.now == 1000 + 15 + 20
    assert capsysbinary.readouterr().out == b"one\nlate\n"


def test_a_job_that_runs_is_followed_however_quiet_it_is(service, capsysbinary):
    asked = []

    def is_over():
        asked.append(service.now)
        return service.now >= 1100

    service.at[105] = lambda: service.entries.append(entry("last", second=100))
    follow(is_over)
    assert asked[-1] == 1100  # Then it is not asked again.
    assert service.now == 1125
    assert capsysbinary.readouterr().out == b"last\n"


def test_an_outage_of_the_log_is_not_quiet(service, capsysbinary):
    for second in range(0, 60, 5):
        service.at[second] = lambda: service.answers.append(Answer(503, {"error": {"message": "away"}}))
    service.at[60] = lambda: service.entries.append(entry("last", second=2))
    follow(lambda: True)
    out, err = capsysbinary.readouterr()
    assert out == b"last\n"
    assert err.count(b"retrying") == 1
    assert service.now == 1080


def test_an_outage_of_vertex_ai_is_not_the_end_of_the_job(service, capsysbinary):
    answers = iter([LostService("jobs are away"), False])

    def is_over():
        answer = next(answers, True)
        if isinstance(answer, Exception):
            raise answer
        return answer

    follow(is_over)
    assert service.now == 1010 + 20
    assert b"jobs are away (retrying for 300 s)" in capsysbinary.readouterr().err
