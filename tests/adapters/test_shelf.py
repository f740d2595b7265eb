"""The shelf: immutable, by content, safe against half-written files and several processes."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.adapters.manifest import (
    Damaged,
    File,
    NotAnAdapter,
    NotOnShelf,
    ShelfError,
    WrongContent,
    entry_of,
    manifest_of,
)
from gateway.adapters.shelf import LEFTOVER_S, Shelf
from tests.adapters.making import LONG_AGO, adapter, files

NOW = 2_000_000_000.0
"""After all that tests write, so that it has settled."""

DAY = 86_400.0


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf", clock=lambda: NOW)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def replaced(path: Path, content: bytes) -> None:
    """As a hand that pays no heed to modes changes a file."""
    path.chmod(0o644)
    path.write_bytes(content)


def hidden(shelf: Shelf) -> list[str]:
    """What lies about beside the adapters."""
    own = {".lock", ".index.json"}
    names = (path.name for path in shelf.root.iterdir())
    return sorted(name for name in names if not name.startswith("sha256-") and name not in own)


# ---------------------------------------------------------------- putting in


def test_an_adapter_lies_under_the_hash_of_its_content(shelf: Shelf, tmp_path: Path) -> None:
    entry = shelf.put(adapter(tmp_path / "support"))
    expected = [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(files().items())
    ]
    raw = json.dumps(expected, separators=(",", ":")).encode()
    assert entry.digest == hashlib.sha256(raw).hexdigest()
    assert entry.size == sum(len(content) for content in files().values())
    directory = shelf.root / f"sha256-{entry.digest}"
    assert shelf.path(entry.digest) == directory
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        **files(),
        ".manifest": raw,
    }
    assert hidden(shelf) == []
    assert shelf.verify(entry.digest) == shelf.entry(entry.digest) == entry


def test_what_is_kept_can_be_read_by_all_and_written_by_none(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    (source / "adapter_config.json").chmod(0o600)
    directory = shelf.path(shelf.put(source).digest)
    assert mode(directory) == 0o555
    assert {mode(path) for path in directory.iterdir()} == {0o444}


def test_a_source_edited_in_place_changes_nothing_on_the_shelf(
    shelf: Shelf, tmp_path: Path
) -> None:
    source = adapter(tmp_path / "support")
    before = shelf.put(source)
    with (source / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"edit")
    after = shelf.put(source)
    assert after.digest != before.digest
    assert shelf.verify(before.digest) == before
    assert shelf.entries() == tuple(sorted((before, after), key=lambda entry: entry.digest))


def test_the_same_content_is_kept_once_wherever_it_comes_from(shelf: Shelf, tmp_path: Path) -> None:
    first = shelf.put(adapter(tmp_path / "support"))
    inode = shelf.path(first.digest).stat().st_ino
    assert shelf.put(adapter(tmp_path / "again")) == first
    assert shelf.path(first.digest).stat().st_ino == inode
    assert shelf.digests() == (first.digest,)


def test_only_an_adapters_files_are_taken(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    (source / "tokenizer.json").write_text("{}")
    for name in ("README.md", "training_args.bin", "optimizer.pt", "run.py", ".cache.json"):
        (source / name).write_text("x")
    adapter(source / "checkpoint-100", seed=1)
    taken = [file.name for file in shelf.put(source).files]
    assert taken == ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]


def without_weights(source: Path) -> None:
    (source / "adapter_model.safetensors").unlink()


def with_pickle(source: Path) -> None:
    (source / "adapter_model.safetensors").rename(source / "adapter_model.bin")


def one_deeper(source: Path) -> None:
    adapter(source / "inner")
    for name in files():
        (source / name).unlink()


def link_out(source: Path) -> None:
    outside = source.parent / "secret.json"
    outside.write_text("{}")
    (source / "extra.json").symlink_to(outside)


def link_nowhere(source: Path) -> None:
    (source / "extra.json").symlink_to("gone.json")


def link_in_a_circle(source: Path) -> None:
    (source / "extra.json").symlink_to("extra.json")


def device(source: Path) -> None:
    os.mkfifo(source / "extra.json")


def directory_in_place_of_a_file(source: Path) -> None:
    (source / "extra.json").mkdir()


def odd_name(source: Path) -> None:
    (source / "a\nb.json").write_text("{}")


def name_that_is_no_text(source: Path) -> None:
    Path(os.fsdecode(os.fsencode(source) + b"/\xff.json")).write_text("{}")


def too_many(source: Path) -> None:
    for number in range(99):
        (source / f"{number}.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_weights, "has no adapter_model.safetensors"),
        (with_pickle, "safe_serialization=True"),
        (one_deeper, "there is one in inner: name that directory"),
        (link_out, "extra.json: is a link that leads out of its directory"),
        (link_nowhere, "extra.json: leads nowhere"),
        (link_in_a_circle, "extra.json: leads nowhere"),
        (device, "extra.json: is no plain file"),
        (directory_in_place_of_a_file, "extra.json: is no plain file"),
        (odd_name, "rename the file"),
        (name_that_is_no_text, "rename the file"),
        (too_many, "and an adapter at most 100; move"),
    ],
)
def test_what_is_no_adapter_is_refused_and_nothing_is_kept(
    spoil: Callable[[Path], None], told: str, shelf: Shelf, tmp_path: Path
) -> None:
    source = adapter(tmp_path / "support")
    spoil(source)
    with pytest.raises(NotAnAdapter, match=told):
        shelf.put(source)
    assert shelf.digests() == ()
    assert not shelf.root.exists() or hidden(shelf) == []


def test_a_file_and_nothing_at_all_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "support.zip").write_bytes(b"")
    with pytest.raises(NotAnAdapter, match="is a file"):
        shelf.put(tmp_path / "support.zip")
    with pytest.raises(NotAnAdapter, match="there is no such directory"):
        shelf.put(tmp_path / "nothing")


def test_a_link_that_stays_inside_is_followed(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    weights = source / "adapter_model.safetensors"
    weights.rename(source / "blob")
    weights.symlink_to("blob")
    entry = shelf.put(source)
    assert entry == Shelf(tmp_path / "other").put(adapter(tmp_path / "plain"))
    kept = shelf.path(entry.digest) / "adapter_model.safetensors"
    assert not kept.is_symlink()


def test_a_file_that_grows_while_it_is_copied_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    weights = source / "adapter_model.safetensors"

    def grow(_: int) -> None:
        with weights.open("ab") as file:
            file.write(b"more")

    with pytest.raises(NotAnAdapter, match="was changed while it was taken in"):
        shelf.put(source, tell=grow)
    assert shelf.digests() == ()
    assert hidden(shelf) == []


def test_other_content_than_expected_is_not_kept(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    with pytest.raises(WrongContent) as caught:
        shelf.put(source, expected="0" * 64)
    assert caught.value.expected == "0" * 64
    assert shelf.digests() == ()
    entry = shelf.put(source, expected=caught.value.found)
    assert entry.digest == caught.value.found
    with pytest.raises(WrongContent):
        shelf.put(source, expected="0" * 64)


def test_staged_files_are_moved_in(shelf: Shelf, tmp_path: Path) -> None:
    with shelf.staging() as staged:
        inner = adapter(staged / "inner")
        weights = (inner / "adapter_model.safetensors").stat().st_ino
        entry = shelf.put(inner, move=True)
    assert (shelf.path(entry.digest) / "adapter_model.safetensors").stat().st_ino == weights
    assert hidden(shelf) == []
    assert shelf.verify(entry.digest) == entry


def test_a_staged_link_is_refused(shelf: Shelf) -> None:
    with shelf.staging() as staged:
        adapter(staged / "inner")
        (staged / "inner" / "extra.json").symlink_to("adapter_config.json")
        with pytest.raises(NotAnAdapter, match="is no plain file"):
            shelf.put(staged / "inner", move=True)
    assert shelf.digests() == ()


# ---------------------------------------------------------------- not reading it all again


def put(shelf: Shelf, source: Path) -> int:
    """How many bytes putting in had to read."""
    read: list[int] = []
    shelf.put(source, tell=read.append)
    return sum(read)


def test_an_unchanged_directory_is_not_read_again(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    size = sum(len(content) for content in files().values())
    assert put(shelf, source) == size
    assert put(shelf, source) == 0
    restarted = Shelf(shelf.root, clock=lambda: NOW)
    assert put(restarted, source) == 0


def test_a_change_that_keeps_size_and_time_is_noticed(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    config = source / "adapter_config.json"
    os.utime(config, (LONG_AGO, LONG_AGO))
    before = shelf.put(source)
    config.write_bytes(config.read_bytes().replace(b"4", b"8"))
    os.utime(config, (LONG_AGO, LONG_AGO))
    assert shelf.put(source).digest != before.digest


def test_a_file_changed_a_moment_ago_is_not_believed(tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    changed = max(path.stat().st_ctime for path in source.iterdir())
    shelf = Shelf(tmp_path / "shelf", clock=lambda: changed + 1)
    assert put(shelf, source) > 0
    assert put(shelf, source) > 0


def test_what_has_left_the_shelf_is_copied_again(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    entry = shelf.put(source)
    shelf.remove(entry.digest)
    assert put(shelf, source) > 0
    assert shelf.verify(entry.digest) == entry


def test_without_its_index_a_shelf_only_reads_more(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = adapter(tmp_path / "support")
    entry = shelf.put(source)
    (shelf.root / ".index.json").write_text("[")
    assert put(shelf, source) > 0
    assert "cannot be read, files are hashed again" in caplog.text
    assert put(shelf, source) == 0
    assert shelf.verify(entry.digest) == entry


def test_another_process_finds_what_one_has_hashed(shelf: Shelf, tmp_path: Path) -> None:
    other = Shelf(shelf.root, clock=lambda: NOW)
    first, second = adapter(tmp_path / "a", 1), adapter(tmp_path / "b", 2)
    assert put(shelf, first) > 0
    assert put(other, first) == 0
    assert put(other, second) > 0
    assert put(shelf, second) == 0


# ---------------------------------------------------------------- looking


def test_what_was_changed_on_the_shelf_is_found(shelf: Shelf, tmp_path: Path) -> None:
    entry = shelf.put(adapter(tmp_path / "support"))
    weights = shelf.path(entry.digest) / "adapter_model.safetensors"
    content = weights.read_bytes()
    replaced(weights, content[:-4] + b"edit")
    with pytest.raises(Damaged, match=r"adapter_model\.safetensors: its content has changed"):
        shelf.verify(entry.digest)
    replaced(weights, content[:-4])
    with pytest.raises(Damaged, match=rf"has {len(content) - 4} bytes instead of {len(content)}"):
        shelf.entry(entry.digest)
    weights.unlink()
    with pytest.raises(Damaged, match="is gone"):
        shelf.entry(entry.digest)


def test_a_file_put_in_by_hand_is_found(shelf: Shelf, tmp_path: Path) -> None:
    entry = shelf.put(adapter(tmp_path / "support"))
    directory = shelf.path(entry.digest)
    directory.chmod(0o755)
    (directory / "extra.json").write_text("{}")
    with pytest.raises(Damaged, match=r"extra\.json were put in by another hand"):
        shelf.verify(entry.digest)


def test_putting_it_in_again_mends_what_was_damaged(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    entry = shelf.put(source)
    replaced(shelf.path(entry.digest) / "adapter_model.safetensors", b"")
    assert shelf.put(source) == entry
    assert shelf.verify(entry.digest) == entry
    assert hidden(shelf) == []


@pytest.mark.parametrize("digest", ["", "A" * 64, "0" * 63, "../" + "0" * 61, "sha256:" + "0" * 57])
def test_what_is_no_digest_leads_nowhere(digest: str, shelf: Shelf) -> None:
    for ask in (shelf.path, shelf.entry, shelf.verify, shelf.remove, shelf.touch):
        with pytest.raises(ShelfError, match="is no digest"):
            ask(digest)


def test_an_unknown_digest_is_told(shelf: Shelf) -> None:
    for ask in (shelf.path, shelf.entry, shelf.verify, shelf.remove, shelf.touch):
        with pytest.raises(NotOnShelf, match="fetch it first"):
            ask("0" * 64)
    assert (shelf.entries(), shelf.digests()) == ((), ())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b'[{"name":"a.json","size":1}]',
        b'[{"name":"a.json","size":1,"sha256":""} ]',
        manifest_of([File("../a.json", 1, "")]),
        manifest_of([File(".manifest", 1, "")]),
        manifest_of([File("a.bin", 1, "")]),
        manifest_of([File("a.json", 1, ""), File("a.json", 1, "")]),
        b"[" + b",".join(manifest_of([File(n, 1, "")])[1:-1] for n in ("b.json", "a.json")) + b"]",
    ],
)
def test_a_manifest_that_is_not_canonical_is_refused(raw: bytes) -> None:
    with pytest.raises(Damaged, match="of something else"):
        entry_of(raw, hashlib.sha256(raw).hexdigest())


def test_a_manifest_of_another_digest_is_refused() -> None:
    with pytest.raises(Damaged, match="not the one that has this digest"):
        entry_of(manifest_of([File("a.json", 1, "")]), "0" * 64)


# ---------------------------------------------------------------- taking out


def test_only_what_nobody_needs_and_is_old_goes(tmp_path: Path) -> None:
    at = LONG_AGO
    shelf = Shelf(tmp_path / "shelf", clock=lambda: at)
    old, needed = (shelf.put(adapter(tmp_path / str(n), n)).digest for n in (1, 2))
    at += DAY
    new = shelf.put(adapter(tmp_path / "3", 3)).digest
    assert shelf.clean({needed}, older_than_s=3600, now=at) == (old,)
    assert set(shelf.digests()) == {needed, new}
    assert shelf.clean({needed}, older_than_s=3600, now=at + 3600) == ()
    assert shelf.clean({needed}, older_than_s=3600, now=at + 3601) == (new,)
    assert shelf.verify(needed)


def test_putting_in_again_begins_the_time_of_grace_anew(tmp_path: Path) -> None:
    at = NOW
    shelf = Shelf(tmp_path / "shelf", clock=lambda: at)
    source = adapter(tmp_path / "support")
    digest = shelf.put(source).digest
    for again in (source, adapter(tmp_path / "same content")):
        at += DAY
        shelf.put(again)
        assert shelf.clean((), older_than_s=3600, now=at + 1) == ()
    at += DAY
    shelf.touch(digest)
    assert shelf.clean((), older_than_s=3600, now=at + 1) == ()
    assert shelf.clean((), older_than_s=3600, now=at + DAY) == (digest,)


def test_cleaning_with_what_is_no_digest_removes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    digest = shelf.put(adapter(tmp_path / "support")).digest
    with pytest.raises(ShelfError, match="is no digest"):
        shelf.clean({f"sha256:{digest}"}, older_than_s=0, now=NOW + DAY)
    assert shelf.digests() == (digest,)


def test_an_empty_shelf_is_clean(shelf: Shelf) -> None:
    assert shelf.clean((), older_than_s=0, now=NOW) == ()
    assert not shelf.root.exists()


def test_what_an_ended_process_left_is_cleaned_up(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put(adapter(tmp_path / "support"))
    left = adapter(shelf.root / ".incoming-abc" / "inner")
    os.utime(left / "adapter_config.json", (NOW, NOW))
    for path in (left / "adapter_model.safetensors", left, left.parent):
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert hidden(shelf) == [".incoming-abc"]
    shelf.clean((), older_than_s=DAY, now=NOW + LEFTOVER_S - 1)
    assert hidden(shelf) == [".incoming-abc"], "somebody may still be writing"
    shelf.clean((), older_than_s=10 * DAY, now=NOW + LEFTOVER_S + 1)
    assert hidden(shelf) == []


def test_cleaning_forgets_what_is_no_longer_there(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    gone = adapter(tmp_path / "gone", 1)
    shelf.put(source)
    digest = shelf.put(gone).digest
    shelf.remember("s3://bucket/gone", "etag", digest)
    for path in gone.iterdir():
        path.unlink()
    shelf.clean({shelf.put(source).digest}, older_than_s=0, now=NOW + 1)
    known = json.loads((shelf.root / ".index.json").read_text())
    assert set(known) == {str(source / name) for name in files()}


# ---------------------------------------------------------------- several at once


def test_many_threads_put_in_the_same(shelf: Shelf, tmp_path: Path) -> None:
    sources = [adapter(tmp_path / str(number)) for number in range(8)]
    together = threading.Barrier(len(sources))
    found: list[str] = []
    failed: list[BaseException] = []

    def work(source: Path) -> None:
        try:
            together.wait(20)
            found.append(Shelf(shelf.root).put(source).digest)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert len(found) == len(sources)
    assert shelf.digests() == tuple(set(found))
    assert hidden(shelf) == []


def test_a_process_killed_while_copying_leaves_nothing_half(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    program = (
        "import os, signal, sys; from pathlib import Path; "
        "from gateway.adapters.shelf import Shelf; "
        "Shelf(Path(sys.argv[1])).put(Path(sys.argv[2]), "
        "tell=lambda count: os.kill(os.getpid(), signal.SIGKILL))"
    )
    command = [sys.executable, "-c", program, str(shelf.root), str(source)]
    assert subprocess.run(command, check=False).returncode == -9
    assert shelf.digests() == ()
    assert len(hidden(shelf)) == 1
    entry = shelf.put(source)
    assert shelf.verify(entry.digest) == entry
    shelf.clean({entry.digest}, older_than_s=0, now=NOW + LEFTOVER_S)
    assert hidden(shelf) == []
