"""The targets that run jobs: this machine, Kubernetes and Vertex AI; `Target` is what each of them implements."""

from typing import Protocol

from launch.job import Job, Location

NAMES = ("local", "kubernetes", "vertex")


class Target(Protocol):
    """The commands of `python -m launch` for one target; the module `launch.NAME.commands` implements them."""

    def print_spec(self, job: Job) -> None:
        """Prints the job's spec on stdout and warnings on stderr; starts nothing and contacts no service.

        Args:
          job: the job.

        Raises:
          UserError: the target cannot run the job.
        """

    def run(self, job: Job, *, wait: bool, run_preflight: bool) -> None:
        """Starts a job.

        Args:
          job: the job.
          wait: whether to follow the job to its end.
          run_preflight: whether to check the data set and the job directory first.

        Raises:
          Ended: the job could not be started, or it failed.
          Stopped: the job was stopped or cancelled, or the user stopped following it.
        """

    def status(self, name: str, location: Location) -> None:
        """Prints the state of a job and of its workers.

        Args:
          name: the job's name.
          location: where the target keeps the job.

        Raises:
          Ended: the job does not exist, or the service does not answer or refuses.
        """

    def logs(self, name: str, location: Location) -> None:
        """Prints the log of all workers from its beginning until the job ends.

        Args:
          name: the job's name.
          location: where the target keeps the job.

        Raises:
          Ended: the job does not exist, or its log cannot be read.
        """

    def cancel(self, name: str, location: Location) -> None:
        """Asks a job to end.

        Args:
          name: the job's name.
          location: where the target keeps the job.

        Raises:
          Ended: the job does not exist or has ended, or the service does not answer or refuses.
        """

    def list_jobs(self, location: Location) -> None:
        """Prints the jobs that launch created.

        Args:
          location: where the target keeps the jobs.

        Raises:
          Ended: the service does not answer or refuses.
        """


def get(name: str) -> Target:
    """Returns a target; imports its module only now, because each target needs other libraries.

    Args:
      name: one of `NAMES`.

    Raises:
      ValueError: the name is unknown.
    """
    if name == "local":
        from launch.local import commands as local

        return local
    if name == "kubernetes":
        from launch.kubernetes import commands as kubernetes

        return kubernetes
    if name == "vertex":
        from launch.vertex import commands as vertex

        return vertex
    raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
