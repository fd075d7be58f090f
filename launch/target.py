"""What a place that runs jobs offers, and the three there are: this machine, Kubernetes and Vertex AI."""

from typing import Protocol

from launch.job import Job, Place

NAMES = ("local", "kubernetes", "vertex")


class Target(Protocol):
    """The commands of `python -m launch` for one target; a module `launch.NAME.commands` implements it."""

    def print_spec(self, job: Job) -> None:
        """Prints what the job becomes on stdout, and notes on stderr; starts nothing and asks no service."""

    def run(self, job: Job, *, wait: bool, look: bool) -> None:
        """Starts a job.

        Args:
          job: the job.
          wait: whether to follow it to its end.
          look: whether to check the data set and the job directory first.

        Raises:
          Ended: the job could not be started, or did not end well.
          Stopped: the user stopped it, or stopped following it.
        """

    def status(self, name: str, place: Place) -> None:
        """Prints the state of a job and of its workers; raises Ended where it cannot be found out."""

    def logs(self, name: str, place: Place) -> None:
        """Prints what all workers have written and will write, until the job is over; raises Ended where it cannot be read."""

    def cancel(self, name: str, place: Place) -> None:
        """Asks a job to save its state and end; raises Ended where there is no such job, or it does not run."""

    def list_jobs(self, place: Place) -> None:
        """Prints the known jobs, the newest first; raises Ended where the service does not tell."""


def get(name: str) -> Target:
    """Returns the target of a name of `NAMES`; its libraries are imported here and not before, as each target has its own."""
    if name == "local":
        from launch.local import commands as local

        return local
    if name == "kubernetes":
        from launch.kubernetes import commands as kubernetes

        return kubernetes
    if name == "vertex":
        from launch.vertex import commands as vertex

        return vertex
    raise ValueError(f"{name!r} is not one of {', '.join(NAMES)}")
