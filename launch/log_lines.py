"""Merges the output of several processes into one log of whole lines, each with the prefix of its process."""

import os

MAX_LINE = 64 * 1024
"""Bytes of a line; a longer one is split, so that a process that never ends its line takes no more memory than this."""

# Limits on the queued bytes. Above the first, no more output is read from the processes; above the second, output is dropped.
_HIGH_WATER, _MAX_PENDING = 1 << 20, 16 << 20

# The bytes that a pipe accepts without blocking when it is ready to be written, PIPE_BUF of pipe(7).
_PIPE_BUF = 4096


class Lines:
    """Splits the output of one process into lines. With an empty prefix, the output passes through unchanged."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Takes output of the process; returns the lines that this completes, with their prefix.

        Of a line with carriage returns (a progress bar), only the last state is kept, as a terminal shows it.

        Args:
          data: the bytes that the process wrote, cut anywhere.
        """
        if not self._prefix:
            self._rest = data[-1:] or self._rest
            return data
        *lines, rest = (self._rest + data).split(b"\n")
        lines = [_last_state(line) for line in lines]
        if b"\r" in rest:
            *_, new = rest.split(b"\r")
            rest = new if new.strip() else _last_state(rest) + b"\r"
        while len(rest) > MAX_LINE:
            cut = MAX_LINE
            while cut > MAX_LINE - 3 and rest[cut] & 0xC0 == 0x80:  # Inside a UTF-8 character.
                cut -= 1
            lines.append(rest[:cut])
            rest = rest[cut:]
        self._rest = rest
        return b"".join(self._prefix + line + b"\n" for line in lines)

    def end(self) -> bytes:
        """Returns the bytes that complete the last line, once the process has ended."""
        rest, self._rest = self._rest, b""
        if not self._prefix:
            return b"" if rest in (b"", b"\n") else b"\n"
        return self._prefix + _last_state(rest) + b"\n" if rest.strip() else b""


def _last_state(line: bytes) -> bytes:
    return next((state for state in reversed(line.split(b"\r")) if state.strip()), b"")


class NonBlockingWriter:
    """Writes to a file, pipe or terminal without ever waiting for its reader, which may be slow or gone.

    Attributes:
      descriptor: the file descriptor that is written to.
      lost: the number of bytes that were dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.lost = 0
        self._pending = bytearray()

    @property
    def is_pending(self) -> bool:
        """Whether `send` has bytes to write once the descriptor is ready."""
        return bool(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether the caller should write no more for now."""
        return len(self._pending) > _HIGH_WATER

    def write(self, data: bytes) -> None:
        """Queues data; drops it if too much is queued already."""
        if len(self._pending) > _MAX_PENDING:
            self.lost += len(data)
        else:
            self._pending += data

    def send(self) -> None:
        """Writes some of the queued data; call it when the descriptor is ready."""
        try:
            sent = os.write(self.descriptor, self._pending[:_PIPE_BUF])
        except BlockingIOError:
            return
        except OSError:  # The reader is gone, or the disk is full: drop the log, and keep the job running.
            sent = len(self._pending)
            self.lost += sent
        del self._pending[:sent]
