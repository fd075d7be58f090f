"""Lines of several workers in one log, and a writer that never waits."""

import os

import pytest

from launch.log_lines import MAX_LINE, Lines, NonBlockingWriter


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"a\nb\n"], b"[0] a\n[0] b\n"),
        ([b"a", b"b\nc", b"\n"], b"[0] ab\n[0] c\n"),
        ([b"a\n\nb"], b"[0] a\n[0] \n[0] b\n"),
        ([b"a\r\nb\r", b"\n"], b"[0] a\n[0] b\n"),
        ([b"10%\r20%\r30%\n"], b"[0] 30%\n"),
        ([b"\r10%", b"\r20%", b"\r", b"30%"], b"[0] 30%\n"),
        ([b"\r100%", b"\r    \r", b"done\n"], b"[0] done\n"),
        ([b"100%\r    \r", b"\n"], b"[0] 100%\n"),
        ([b"\xff\xfe\n"], b"[0] \xff\xfe\n"),
        ([b""], b""),
        ([b"a\n", b"\r"], b"[0] a\n"),
    ],
)
def test_output_becomes_whole_lines(pieces, lines):
    merged = Lines("[0] ")
    assert b"".join(map(merged.feed, pieces)) + merged.end() == lines


def test_an_endless_progress_bar_takes_no_memory():
    merged = Lines("[0] ")
    for number in range(10_000):
        merged.feed(b"\r%5d/10000 [====>    ]" % number)
    assert len(merged._rest) < 100


def test_an_endless_line_is_split_between_two_characters():
    merged = Lines("[0] ")
    text = "é" * MAX_LINE
    found = merged.feed(b"x" + text.encode()) + merged.end()
    lines = found.decode().splitlines()
    assert len(lines) == 3
    assert "".join(line.removeprefix("[0] ") for line in lines) == "x" + text


def test_without_a_prefix_output_passes_through_unchanged():
    merged = Lines("")
    pieces = [b"\r10%", b"\r20%", b"\n", b"no end"]
    assert [merged.feed(piece) for piece in pieces] == pieces
    assert (merged.end(), merged.end()) == (b"\n", b"")


def test_output_without_a_reader_is_bounded(tmp_path):
    output = NonBlockingWriter(-1)
    for _ in range(100):
        output.write(bytes(1 << 20))
    assert output.is_full
    assert output.lost > 80 << 20
    lost = output.lost
    output.send()  # To an invalid descriptor.
    assert not output.is_pending
    assert output.lost > lost


def test_a_line_of_the_greatest_length_stays_whole():
    merged = Lines("[0] ")
    assert merged.feed(b"x" * MAX_LINE) == b""
    assert merged.feed(b"\n") == b"[0] " + b"x" * MAX_LINE + b"\n"
    assert merged.feed(b"x" * (MAX_LINE + 1)) == b"[0] " + b"x" * MAX_LINE + b"\n"
    assert merged.end() == b"[0] x\n"


@pytest.mark.parametrize("rest", [0, 1, 2, 3])
def test_a_cut_moves_back_to_the_beginning_of_a_character_of_four_bytes(rest):
    merged = Lines("[0] ")
    text = b"x" * (MAX_LINE - rest) + "🎬".encode() * 2
    first, second, end = (merged.feed(text) + merged.end()).split(b"\n")
    assert first == b"[0] " + b"x" * (MAX_LINE - rest)
    assert second == b"[0] " + "🎬".encode() * 2
    assert end == b""


def test_bytes_that_are_not_utf_8_are_cut_somewhere():
    merged = Lines("[0] ")
    found = merged.feed(b"\x80" * 3 * MAX_LINE) + merged.end()
    lines = found.split(b"\n")
    assert b"".join(line.removeprefix(b"[0] ") for line in lines) == b"\x80" * 3 * MAX_LINE
    assert [len(line) for line in lines[:3]] == [4 + MAX_LINE - 3] * 3


def test_output_without_a_prefix_ends_with_a_line_end_but_gets_no_second_one():
    merged = Lines("")
    for piece in (b"one\n", b""):  # An empty piece is the end of the output.
        merged.feed(piece)
    assert merged.end() == b""
    for piece in (b"one", b""):
        merged.feed(piece)
    assert merged.end() == b"\n"


def pipe():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    return reading, writing


def test_a_writer_sends_in_order_no_more_than_a_ready_pipe_takes():
    reading, writing = pipe()
    output = NonBlockingWriter(writing)
    assert not output.is_pending
    output.write(b"x" * 5000)
    output.write(b"end")
    assert output.is_pending
    output.send()
    assert os.read(reading, 1 << 16) == b"x" * 4096  # What poll(2) promises.
    output.send()
    assert os.read(reading, 1 << 16) == b"x" * (5000 - 4096) + b"end"
    assert not output.is_pending
    assert output.lost == 0
    os.close(reading)
    os.close(writing)


def test_a_writer_keeps_what_a_full_pipe_does_not_take():
    reading, writing = pipe()
    os.write(writing, bytes(1 << 16))
    output = NonBlockingWriter(writing)
    output.write(b"one")
    output.send()
    assert output.is_pending
    os.read(reading, 1 << 16)
    output.send()
    assert os.read(reading, 1 << 16) == b"one"
    assert (output.is_pending, output.lost) == (False, 0)
    os.close(reading)
    os.close(writing)


def test_a_writer_whose_reader_is_gone_counts_what_is_lost():
    reading, writing = pipe()
    os.close(reading)
    output = NonBlockingWriter(writing)
    output.write(b"x" * 5000)
    output.send()
    assert (output.is_pending, output.lost) == (False, 5000)
    os.close(writing)


def test_a_writer_is_full_above_one_mib_and_drops_above_16():
    output = NonBlockingWriter(-1)
    output.write(bytes(1 << 20))
    assert not output.is_full
    output.write(b"x")
    assert output.is_full
    output.write(bytes((15 << 20) - 1))
    output.write(b"y")  # At 16 MiB it still takes more.
    assert output.lost == 0
    output.write(b"zz")
    assert output.lost == 2
