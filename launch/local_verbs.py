"""What launch does with jobs on this machine."""

from launch import local
from launch.job import Job


def print_spec(job: Job) -> None:
    """Prints the processes that a job becomes, as one JSON object."""
    local.run(job, dry_run=True)


def run(job: Job, *, wait: bool) -> None:
    """Runs a job to its end."""
    local.run(job, dry_run=False)
