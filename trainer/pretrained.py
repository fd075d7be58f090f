"""The weights of others with which a job's backbone begins."""

import logging
import tempfile
from pathlib import Path

import numpy as np

from trainer import files
from trainer.backbones import BACKBONES
from trainer.config import TrainConfig
from trainer.errors import UserError

_log = logging.getLogger(__name__)


def load(job: TrainConfig) -> list[np.ndarray]:
    """Reads the weights that --weights names, in the order in which the job's backbone has them.

    Raises:
      UserError: there is no such file, it holds no weights or those of another network, or they cannot be downloaded.
    """
    weights = _downloaded(job) if job.weights == "imagenet" else _read(job)
    _log.info("--model=%s begins with %d weights of %s", job.model, sum(array.size for array in weights), job.weights)
    return weights


def _downloaded(job: TrainConfig) -> list[np.ndarray]:
    try:
        return BACKBONES[job.model].download().get_weights()
    except Exception as error:  # Keras raises whatever urllib does, and bare Exceptions.
        raise UserError(
            f"--weights=imagenet: the weights of {job.model} cannot be downloaded ({_brief(error)}): try again, or name a file"
        ) from error


def _read(job: TrainConfig) -> list[np.ndarray]:
    path = files.place("--weights", job.weights)
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


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
