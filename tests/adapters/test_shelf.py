"""The shelf: content that never changes, and goes only when nobody needs it."""

import os
from pathlib import Path

import pytest

from gateway.adapters.shelf import Shelf, ShelfError, digest_of


def adapter(folder: Path, weights: bytes = b"weights", config: bytes = b"{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


def test_what_is_put_there_stays_as_it_was(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    entry = shelf.put(source)
    (source / "adapter_model.safetensors").write_bytes(b"other weights")
    (source / "adapter_config.json").unlink()
    kept = shelf.path(entry.digest)
    assert (kept / "adapter_model.safetensors").read_bytes() == b"weights"
    assert sorted(each.name for each in kept.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert entry.size == len(b"weights") + 2
    assert kept.name == entry.folder


def test_the_same_content_is_kept_once(shelf: Shelf, tmp_path: Path) -> None:
    first, second = (shelf.put(adapter(tmp_path / name)) for name in ("a", "b"))
    assert first == second
    assert shelf.digests() == [first.digest]


def test_other_content_has_another_name(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    before = shelf.put(source)
    adapter(source, b"weightz")
    after = shelf.put(source)
    assert before.digest != after.digest
    assert set(shelf.digests()) == {before.digest, after.digest}


def test_a_file_that_was_hashed_is_not_read_again(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    entry = shelf.put(source)
    # Same time, size and inode: only who reads the bytes could tell.
    status = (source / "adapter_model.safetensors").stat()
    with (source / "adapter_model.safetensors").open("r+b") as file:
        file.write(b"WEIGHTS")
    os.utime(source / "adapter_model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert shelf.put(source) == entry
    os.utime(source / "adapter_model.safetensors", ns=(1, 1))
    assert shelf.put(source) != entry


def test_only_adapters_files_are_taken(shelf: Shelf, tmp_path: Path) -> None:
    source = adapter(tmp_path / "support")
    (source / "adapter_model.bin").write_bytes(b"a pickle")
    (source / "train.py").write_text("print()")
    entry = shelf.put(source)
    assert [file.name for file in entry.files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_link_that_leads_out_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    source = adapter(tmp_path / "support")
    (source / "tokenizer.json").symlink_to(secret)
    with pytest.raises(ShelfError, match=r"tokenizer\.json leads out of its directory"):
        shelf.put(source)


def test_the_links_of_a_hubs_cache_are_followed(shelf: Shelf, tmp_path: Path) -> None:
    plain = shelf.put(adapter(tmp_path / "plain"))
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for file in adapter(blobs).iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert shelf.put(snapshot) == plain


def test_what_was_damaged_is_noticed(shelf: Shelf, tmp_path: Path) -> None:
    entry = shelf.put(adapter(tmp_path / "support"))
    assert shelf.entry(entry.digest) == entry
    damaged = shelf.path(entry.digest) / "adapter_model.safetensors"
    damaged.chmod(0o644)
    damaged.write_bytes(b"weightz")
    with pytest.raises(ShelfError, match="changed or is damaged"):
        shelf.entry(entry.digest)


def test_nothing_half_is_left(shelf: Shelf) -> None:
    def broken() -> None:
        with shelf.staging() as folder:
            (folder / "adapter_config.json").write_text("{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert list(shelf.root.iterdir()) == []
    assert shelf.digests() == []


def test_cleaning_takes_only_what_is_old_and_not_needed(shelf: Shelf, tmp_path: Path) -> None:
    needed, old, new = (
        shelf.put(adapter(tmp_path / name, name.encode())) for name in ("needed", "old", "new")
    )
    for entry in (needed, old):
        os.utime(shelf.path(entry.digest), (1000, 1000))
    os.utime(shelf.path(new.digest), (4000, 4000))
    gone = shelf.clean({needed.digest}, now=5000, older_than_s=3600)
    assert gone == [old.digest]
    assert set(shelf.digests()) == {needed.digest, new.digest}


def test_a_directory_that_is_not_there_is_said(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(ShelfError, match="there is no directory"):
        shelf.put(tmp_path / "nothing")


def test_the_digest_does_not_depend_on_the_order(shelf: Shelf, tmp_path: Path) -> None:
    entry = shelf.put(adapter(tmp_path / "support"))
    assert digest_of(entry.files) == digest_of(tuple(reversed(entry.files))) == entry.digest
