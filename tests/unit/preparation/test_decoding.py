"""Images on their way from any storage to the spool."""

import hashlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.support import inline
from trainer.dataset.rejects import Reason
from trainer.errors import LostService, UserError
from trainer.images import decode, perceptual_hash
from trainer.images.decode import ImageError
from trainer.preparation import decoding
from trainer.sources.folders import LocalFile


@pytest.fixture
def posters(tmp_path):
    """Returns a function that writes an image and returns its file."""

    def write(name, *, side=40, **options):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, **options)
        return LocalFile(tmp_path / name)

    return write


def store(images, path, **changes):
    with path.open("w+b") as spool:
        stored = decoding.store(images, spool, **{"height": 48, "width": 32, "encoding": "jpeg", **changes})
        # The writer of the shards opens no other file: nothing may be left in a buffer.
        return stored, path.read_bytes()


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_the_spool_holds_each_image_and_its_thumbnail_where_it_is_said_to(posters, tmp_path, monkeypatch, encoding):
    inline.decoding_pool(monkeypatch)
    images = [posters("a.png"), posters("bb.jpg"), posters("ccc.png")]
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    stored, spool = store([images[0], LocalFile(tmp_path / "broken.jpg"), *images[1:]], tmp_path / "spool", encoding=encoding)
    rejected = stored.pop(1)
    assert isinstance(rejected, ImageError)
    assert rejected.reason is Reason.UNSUPPORTED_FORMAT
    end = 0
    for image, where in zip(images, stored, strict=True):
        data = image.read()
        pixels = decode.resize(decode.decode(data, height=48, width=32), height=48, width=32)
        thumbnail = perceptual_hash.thumbnail(pixels)
        expected = pixels.tobytes() if encoding == "raw" else decode.encode_jpeg(pixels)
        assert where.source_hash == hashlib.sha256(data).hexdigest()
        assert where.perceptual_hash == perceptual_hash.compute(thumbnail)
        assert (where.offset, where.size) == (end, len(expected))
        assert spool[end : end + where.size] == expected
        end += where.size + len(thumbnail)
        assert spool[where.offset + where.size : end] == thumbnail
    assert len(spool) == end


def test_an_image_of_more_than_eight_mebibytes_is_decoded_like_any_other(posters, tmp_path, monkeypatch):
    inline.decoding_pool(monkeypatch)
    large, small = posters("a.png", side=1700, compress_level=0), posters("b.png")
    assert large.path.stat().st_size > 8 << 20
    stored, _ = store([small, large, small], tmp_path / "spool")
    assert [where.source_hash for where in stored] == [hashlib.sha256(image.read()).hexdigest() for image in (small, large, small)]


def test_large_images_are_read_one_by_one(monkeypatch):
    """A batch of them could fill the memory."""
    counts = SimpleNamespace(in_memory=0, most=0)

    class Large:
        is_remote = False

        def read_start(self, count):
            pytest.fail("only its name tells that it is an image")

        def read_small(self, max_bytes):
            assert max_bytes == 8 << 20

        def read(self):
            counts.in_memory += 1
            counts.most = max(counts.most, counts.in_memory)
            return b"image"

    def encode(data, **options):
        assert data == b"image"
        counts.in_memory -= 1

    monkeypatch.setattr(decoding, "_encode", encode)
    assert len(decoding._encode_batch([Large()] * 4, height=8, width=8, encoding="raw")) == 4
    assert counts.most == 1


def test_images_are_decoded_in_batches_of_sixteen_and_few_wait(posters, tmp_path, monkeypatch):
    made = inline.decoding_pool(monkeypatch, cores=2)
    images = [posters("a.png", side=8)] * 400
    stored, _ = store(images, tmp_path / "spool", height=8, width=8)
    (pool,) = made
    assert len(stored) == 400
    assert pool.batches == [16] * 25
    assert pool.most_waiting == 2 * 4
    assert pool.processes == 2
    assert pool.options["initializer"] is decoding._start_worker
    assert pool.options["mp_context"].get_start_method() == "spawn"


def test_the_last_batch_may_be_smaller(posters, tmp_path, monkeypatch):
    (made, images) = inline.decoding_pool(monkeypatch), [posters("a.png", side=8)]
    for count, batches in ((0, []), (1, [1]), (16, [16]), (17, [16, 1])):
        stored, _ = store(images * count, tmp_path / "spool", height=8, width=8)
        assert len(stored) == count
        assert made[-1].batches == batches


def test_where_images_come_over_a_network_more_processes_wait_for_them(posters, tmp_path, monkeypatch):
    made = inline.decoding_pool(monkeypatch, cores=3)
    here = posters("a.png", side=8)
    there = SimpleNamespace(is_remote=True, read_small=lambda limit: here.read())
    store([here, there], tmp_path / "spool", height=8, width=8)
    assert made[-1].processes == 6


def test_a_killed_process_is_explained(posters, tmp_path, monkeypatch):
    inline.decoding_pool(monkeypatch, failure=BrokenProcessPool("killed"))
    with pytest.raises(UserError, match=r"^a process that decodes images was killed, most often because the memory was full: free"):
        store([posters("a.png")], tmp_path / "spool")


@pytest.mark.parametrize("failure", [LostService("no answer"), KeyboardInterrupt()])
def test_after_a_failure_the_batches_that_wait_never_begin(posters, tmp_path, monkeypatch, failure):
    made = inline.decoding_pool(monkeypatch, failure=failure)
    with pytest.raises(type(failure)):
        store([posters("a.png")], tmp_path / "spool")
    assert made[-1].shutdowns == [{"cancel_futures": True}]


def test_a_decoding_process_leaves_ctrl_c_to_its_parent_and_ends_with_it(monkeypatch):
    did = []
    parent = SimpleNamespace(join=lambda: did.append("waited for the parent"))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(signal, "signal", lambda *arguments: did.append(arguments))
    monkeypatch.setattr(os, "_exit", lambda code: did.append(code))

    class Thread:
        def __init__(self, target, daemon):
            assert daemon, "it does not keep the process alive either"
            self.start = target

    monkeypatch.setattr(threading, "Thread", Thread)
    decoding._start_worker()
    assert did == [(signal.SIGINT, signal.SIG_IGN), "waited for the parent", 1]
