"""The weights of others with which a job's backbone begins."""

import http.client
import logging
import ssl
import tempfile
import urllib.error
from pathlib import Path

import numpy as np

from trainer.config import TrainConfig
from trainer.errors import Ended, LostService, UserError
from trainer.model.backbones import BACKBONES
from trainer.storage import files

_log = logging.getLogger(__name__)

# What urllib lets through of a connection that it has had.
_BROKEN_OFF = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)


def load(job: TrainConfig) -> list[np.ndarray]:
    """Reads the weights that --weights names, in the order in which the job's backbone has them.

    Raises:
      UserError: there is no such file, it holds no weights or those of another network, or the web refuses them.
      LostService: the web does not answer.
    """
    weights = _downloaded(job) if job.weights == "imagenet" else _read(job)
    _log.info("--model=%s begins with %d weights of %s", job.model, sum(array.size for array in weights), job.weights)
    return weights


def _downloaded(job: TrainConfig) -> list[np.ndarray]:
    try:
        return BACKBONES[job.model].download().get_weights()
    except Exception as error:
        # Keras hides what urllib raises behind bare Exceptions.
        end = _of_download(job, error.__context__ if type(error) is Exception else error)
        if end is None:
            raise
        raise end from error


def _of_download(job: TrainConfig, cause: BaseException | None) -> Ended | None:
    """What an error means that ended a download, or None where it is about something else."""
    if isinstance(cause, urllib.error.HTTPError):
        may_pass = cause.code in (408, 429) or cause.code >= 500
    elif isinstance(cause, urllib.error.URLError):
        may_pass = not isinstance(cause.reason, ssl.SSLCertVerificationError)
    elif isinstance(cause, _BROKEN_OFF) or (isinstance(cause, ValueError) and "file hash does not match" in str(cause)):
        may_pass = True
    else:
        return None
    text = f"--weights=imagenet: the weights of {job.model} cannot be downloaded ({_brief(cause)})"
    return LostService(f"{text}: run the same command again, or name a file") if may_pass else UserError(f"{text}: name a file")


def _read(job: TrainConfig) -> list[np.ndarray]:
    path = files.from_flag("--weights", job.weights)
    try:
        content = files.read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--weights={path}: there is no such file: mend the name") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"--weights={path}: it cannot be read ({error.strerror}): name another file") from None
    # They are the same for pictures of any size.
    backbone = BACKBONES[job.model].build(32, 32)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.weights.h5"
        copy.write_bytes(content)
        try:
            backbone.load_weights(copy)
        except Exception as error:  # HDF5 and Keras raise nearly anything for a file that is damaged, or another network's.
            raise UserError(
                f"--weights={path}: it does not hold the weights of {job.model} ({_brief(error)}): name another file"
            ) from error
    return backbone.get_weights()


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
