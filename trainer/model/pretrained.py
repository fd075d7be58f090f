"""Loads the pretrained weights with which a job's backbone starts."""

import http.client
import logging
import ssl
import tempfile
import urllib.error
from pathlib import Path

import numpy as np

from trainer.config import TrainConfig
from trainer.errors import Ended, LostService, UserError, brief
from trainer.model.backbones import BACKBONES
from trainer.storage import files

_log = logging.getLogger(__name__)

# Errors that urllib does not wrap in URLError, because the connection had been made.
_BROKEN_OFF = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)


def load(job: TrainConfig) -> list[np.ndarray]:
    """Reads or downloads the weights that --weights names.

    Args:
      job: the job's flags; `weights` is not none.

    Returns:
      The weights, in the order and shapes of the backbone's.

    Raises:
      UserError: the file does not exist, cannot be read or does not hold the weights of this network, or the server refuses the
        download.
      LostService: the server does not answer, or the download broke off.
    """
    weights = _downloaded(job) if job.weights == "imagenet" else _read(job)
    _log.info("--model=%s starts with %d pretrained weights from %s", job.model, sum(array.size for array in weights), job.weights)
    return weights


def _downloaded(job: TrainConfig) -> list[np.ndarray]:
    try:
        return BACKBONES[job.model].download().get_weights()
    except Exception as error:
        # Keras raises a bare Exception in place of urllib's errors.
        ended = _download_error(job, error.__context__ if type(error) is Exception else error)
        if ended is None:
            raise
        raise ended from error


def _download_error(job: TrainConfig, cause: BaseException | None) -> Ended | None:
    """Returns the error of the contract for the cause of a failed download, or None if the cause is not the download."""
    if isinstance(cause, urllib.error.HTTPError):
        may_pass = cause.code in (408, 429) or cause.code >= 500
    elif isinstance(cause, urllib.error.URLError):
        may_pass = not isinstance(cause.reason, ssl.SSLCertVerificationError)
    elif isinstance(cause, _BROKEN_OFF) or (isinstance(cause, ValueError) and "file hash does not match" in str(cause)):
        may_pass = True
    else:
        return None
    text = f"--weights=imagenet: the weights of {job.model} cannot be downloaded ({brief(cause)})"
    return LostService(f"{text}: run the same command again, or name a file") if may_pass else UserError(f"{text}: name a file")


def _read(job: TrainConfig) -> list[np.ndarray]:
    path = files.from_flag("--weights", job.weights)
    try:
        content = files.read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--weights={path} does not exist: correct the path") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"--weights={path} cannot be read ({error.strerror}): name another file") from None
    # The weights have the same shapes for images of any size.
    backbone = BACKBONES[job.model].build(32, 32)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.weights.h5"
        copy.write_bytes(content)
        try:
            backbone.load_weights(copy)
        except Exception as error:  # HDF5 and Keras raise many kinds of exceptions for a damaged or wrong file.
            raise UserError(
                f"--weights={path} does not hold the weights of {job.model} ({brief(error)}): name another file"
            ) from error
    return backbone.get_weights()
