"""One log out of the output of several processes: whole lines, each with its process's prefix."""

import os

# A longer line is broken, so that a process that never ends its line takes no more memory than this.
LONGEST_LINE = 64 * 1024

# What waits to be written. Past the first, nothing more is read from the processes; past the second, it is thrown away.
_MUCH, _TOO_MUCH = 1 << 20, 16 << 20

# What a pipe that is ready to be written takes at once; a longer write might block.
_PIPE_BUF = 4096


class Lines:
    """Cuts the output of one process into lines. Without a prefix, everything is passed on as it comes."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Takes what the process wrote; returns the lines that this completes.

        Of a line that a carriage return begins anew (a progress bar), the last state is kept, as on a terminal.
        """
        if not self._prefix:
            self._rest = data[-1:] or self._rest
            return data
        *lines, rest = (self._rest + data).split(b"\n")
        lines = [_last_state(line) for line in lines]
        if b"\r" in rest:
            *_, new = rest.split(b"\r")
            rest = new if new.strip() else _last_state(rest) + b"\r"
        while len(rest) > LONGEST_LINE:
            cut = LONGEST_LINE
            while cut > LONGEST_LINE - 3 and rest[cut] & 0xC0 == 0x80:  # Within a character of UTF-8.
                cut -= 1
            lines.append(rest[:cut])
            rest = rest[cut:]
        self._rest = rest
        return b"".join(self._prefix + line + b"\n" for line in lines)

    def end(self) -> bytes:
        """Returns what completes the last line of a process that has ended."""
        rest, self._rest = self._rest, b""
        if not self._prefix:
            return b"" if rest in (b"", b"\n") else b"\n"
        return self._prefix + _last_state(rest) + b"\n" if rest.strip() else b""


def _last_state(line: bytes) -> bytes:
    return next((state for state in reversed(line.split(b"\r")) if state.strip()), b"")


class Output:
    """Writes to a file, pipe or terminal whose reader may be slow or gone, without ever waiting for it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.lost = 0  # Bytes.
        self._pending = bytearray()

    @property
    def is_pending(self) -> bool:
        """Whether `send` has something to do once the descriptor is ready."""
        return bool(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether no more should be written for now."""
        return len(self._pending) > _MUCH

    def write(self, data: bytes) -> None:
        """Takes data to be sent; loses it where far too much is waiting already."""
        if len(self._pending) > _TOO_MUCH:
            self.lost += len(data)
        else:
            self._pending += data

    def send(self) -> None:
        """Writes some of what waits; call it when the descriptor is ready."""
        try:
            sent = os.write(self.descriptor, self._pending[:_PIPE_BUF])
        except BlockingIOError:
            return
        except OSError:  # The reader is gone, or the disk is full. The job is worth more than its log.
            sent = len(self._pending)
            self.lost += sent
        del self._pending[:sent]
