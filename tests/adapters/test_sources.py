"""Adapters from everywhere they come from, over real sockets, hostile ones among them."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from moto.server import ThreadedMotoServer

from gateway.adapters.manifest import Entry
from gateway.adapters.shelf import Shelf
from gateway.adapters.sources import Credentials, Limits, SourceError, fetch
from tests.adapters.making import adapter, digest, files, sha256
from tests.adapters.serving import Answer, Answers, Request, Site, site

ROOT = Path(__file__).parents[2]
NOW = 2_000_000_000.0


class Fetch:
    """A shelf, and what fetching onto it is done with."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.base = home / "base"
        self.base.mkdir()
        self.shelf = Shelf(home / "shelf", clock=lambda: NOW)
        self.credentials = Credentials()
        self.told: list[tuple[int, int | None]] = []
        self.slept: list[float] = []

    def __call__(self, source: str, sha256: str | None = None, **more: Any) -> Entry:
        return fetch(
            source,
            base=self.base,
            into=self.shelf,
            sha256=sha256,
            progress=lambda done, total: self.told.append((done, total)),
            sleep=self.slept.append,
            credentials=self.credentials,
            **more,
        )

    def fails(self, source: str, sha256: str | None = None, **more: Any) -> SourceError:
        """The error; nothing may have been kept or left about."""
        before = self.shelf.digests()
        with pytest.raises(SourceError) as caught:
            self(source, sha256, **more)
        assert self.shelf.digests() == before
        if self.shelf.root.exists():
            assert [path.name for path in self.shelf.root.glob(".incoming-*")] == []
        return caught.value


@pytest.fixture
def get(tmp_path: Path) -> Fetch:
    return Fetch(tmp_path)


@pytest.fixture
def web(tmp_path: Path, get: Fetch) -> Iterator[Site]:
    with site(tmp_path) as found:
        get.credentials = Credentials(ca_file=found.ca_file)
        yield found


# ---------------------------------------------------------------- a directory


def test_a_directory_below_the_base(get: Fetch) -> None:
    adapter(get.base / "team" / "support.v7")
    entry = get("team/support.v7")
    assert entry.digest == digest()
    assert get.shelf.verify(entry.digest) == entry
    assert get.told[-1] == (entry.size, entry.size)
    done = [count for count, _ in get.told]
    assert done == sorted(done)
    assert len(done) > 1


@pytest.mark.parametrize("source", ["../elsewhere", "inside/../../elsewhere", "link", "{home}"])
def test_a_directory_elsewhere_only_if_that_is_allowed(source: str, get: Fetch) -> None:
    adapter(get.home / "elsewhere")
    (get.base / "inside").mkdir()
    (get.base / "link").symlink_to(get.home / "elsewhere")
    source = source.replace("{home}", str(get.home / "elsewhere"))
    error = get.fails(source)
    assert error.found == f"lies outside {get.base}"
    assert get(source, outside=True).digest == digest()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "there is no such directory below"),
        ("file", "is a file; name the adapter's directory"),
        ("empty", "has no adapter_config.json and no adapter_model.safetensors"),
        ("linked", "extra.json: is a link that leads out of its directory"),
    ],
)
def test_what_is_no_adapter_is_told(name: str, said: str, get: Fetch) -> None:
    (get.base / "file").write_text("")
    (get.base / "empty").mkdir()
    (adapter(get.base / "linked") / "extra.json").symlink_to("/etc/hostname")
    error = get.fails(name)
    assert str(error).startswith(f"{name}: {said}")


def test_a_directory_that_is_too_large(get: Fetch) -> None:
    adapter(get.base / "support")
    error = get.fails("support", limits=Limits(fetched=100))
    assert "the limit is 100" in error.found


def test_a_source_that_is_not_known(get: Fetch) -> None:
    assert str(get.fails("ftp://host/x")) == (
        "ftp://host/x: ftp:// is not known; known are s3, https, http, hf"
    )


# ---------------------------------------------------------------- pins


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_a_pin_that_is_met(prefix: str, get: Fetch) -> None:
    adapter(get.base / "support")
    assert get("support", f"{prefix}{digest()}").digest == digest()


def test_a_pin_that_is_not_met(get: Fetch) -> None:
    adapter(get.base / "support")
    error = get.fails("support", f"sha256:{'0' * 64}")
    assert error.found == (
        f"the content is sha256:{digest()}, and not the sha256:{'0' * 64} that is pinned"
    )
    assert get("support", f"sha256:{digest()}")


@pytest.mark.parametrize("pin", ["", "md5:" + "0" * 64, "sha256:" + "A" * 64, "sha256:1"])
def test_a_pin_that_is_none(pin: str, get: Fetch) -> None:
    adapter(get.base / "support")
    assert get.fails("support", pin).mend == "write 64 hexadecimal digits"


def test_what_is_pinned_and_there_is_not_fetched(get: Fetch) -> None:
    there = get.shelf.put(adapter(get.home / "support"))
    assert get("s3://no-such-bucket/x", f"sha256:{there.digest}") == there


# ---------------------------------------------------------------- archives


def tar(members: Mapping[str, bytes]) -> bytes:
    """A .tar.gz of plain files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            packed.addfile(info, io.BytesIO(body))
    return out.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A .zip of plain files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, body in members.items():
            packed.writestr(name, body)
    return out.getvalue()


def below(folder: str, members: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The files of an adapter in a folder."""
    return {f"{folder}{name}": body for name, body in (members or files()).items()}


def always(answer: Answer) -> Answers:
    return lambda request: answer


def in_parts(body: bytes, *cuts: int, tag: str = '"v1"') -> Answers:
    """A server with ranges that breaks off at each of these places in turn."""
    left = list(cuts)

    def page(request: Request) -> Answer:
        wanted = request.headers.get("range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted is not None else 0
        cut = left.pop(0) - start if left and request.method == "GET" else None
        headers = {"etag": tag}
        if wanted is None or request.headers.get("if-range") != tag:
            return Answer(body, 200, headers, cut)
        headers["content-range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return Answer(body[start:], 206, headers, cut)

    return page


@pytest.mark.parametrize(
    "packed",
    [
        tar(files()),
        tar(below("./")),
        tar(below("support-v7/")),
        tar({**below("a/b/"), "a/README.md": b"x", "a/b/adapter_model.bin": b"x"}),
        tar({**below("a/"), **below("a/checkpoint-10/", files(1))}),
        zipped(files()),
        zipped({**below("support-v7/"), "__MACOSX/support-v7/._adapter_config.json": b"x"}),
    ],
)
def test_an_archive(packed: bytes, get: Fetch, web: Site) -> None:
    web.pages["/support.tar.gz"] = always(Answer(packed))
    entry = get(f"{web.url}/support.tar.gz")
    assert entry.digest == digest()
    assert get.shelf.verify(entry.digest) == entry
    assert get.told[-1] == (len(packed), len(packed))
    assert list(get.shelf.root.glob(".incoming-*")) == []


@pytest.mark.parametrize("pin", ["archive", "content"])
def test_an_archive_is_pinned_by_its_own_hash_or_its_contents(
    pin: str, get: Fetch, web: Site
) -> None:
    packed = tar(files())
    web.pages["/support.tgz"] = always(Answer(packed))
    wanted = f"sha256:{sha256(packed) if pin == 'archive' else digest()}"
    entry = get(f"{web.url}/support.tgz", wanted)
    assert entry.digest == digest()
    web.asked.clear()
    assert get(f"{web.url}/support.tgz", wanted) == entry
    assert web.asked == [], "it was on the shelf"


def test_an_archive_that_is_not_what_is_pinned(get: Fetch, web: Site) -> None:
    packed = tar(files())
    web.pages["/support.tgz"] = always(Answer(packed))
    error = get.fails(f"{web.url}/support.tgz", f"sha256:{'0' * 64}")
    assert f"the archive is sha256:{sha256(packed)}" in error.found
    assert f"its content sha256:{digest()}" in error.found


def test_what_breaks_off_is_taken_up_where_it_was(get: Fetch, web: Site) -> None:
    packed = tar(files())
    web.pages["/support.tgz"] = in_parts(packed, 100, 250)
    assert get(f"{web.url}/support.tgz").digest == digest()
    assert [each.headers.get("range") for each in web.said("GET")] == [
        None,
        "bytes=100-",
        "bytes=250-",
    ]
    assert len(get.slept) == 2
    assert get.told[-1] == (len(packed), len(packed))


@pytest.mark.parametrize("tag", ["W/weak", '"another"'])
def test_what_may_be_another_file_is_fetched_from_its_beginning(
    tag: str, get: Fetch, web: Site
) -> None:
    packed = tar(files())
    first = in_parts(tar(files(1)), 100, tag="W/weak" if tag == "W/weak" else '"v1"')
    second = in_parts(packed, tag=tag)
    web.pages["/support.tgz"] = lambda request: (
        first(request) if len(web.asked) == 1 else second(request)
    )
    assert get(f"{web.url}/support.tgz").digest == digest()
    assert len(web.asked) == 2


def test_another_part_than_was_asked_for_is_not_taken(get: Fetch, web: Site) -> None:
    packed = tar(files())
    page = in_parts(packed, 100)

    def wrong_once(request: Request) -> Answer:
        if len(web.asked) == 2:
            return Answer(packed[50:], 206, {"content-range": f"bytes 50-{len(packed) - 1}/9"})
        return page(request)

    web.pages["/support.tgz"] = wrong_once
    assert get(f"{web.url}/support.tgz").digest == digest()
    assert len(web.asked) == 3


def test_what_breaks_off_for_ever_is_given_up(get: Fetch, web: Site) -> None:
    web.pages["/support.tgz"] = always(Answer(tar(files()), cut=100))
    error = get.fails(f"{web.url}/support.tgz")
    assert "broke off 4 times, the last after 100 bytes" in error.found
    assert len(web.asked) == 4
    assert len(get.slept) == 3


def test_a_server_that_is_busy_is_asked_again(get: Fetch, web: Site) -> None:
    web.pages["/support.tgz"] = lambda request: (
        Answer(b"", 503) if len(web.asked) < 3 else Answer(tar(files()))
    )
    assert get(f"{web.url}/support.tgz").digest == digest()
    web.pages["/other.tgz"] = always(Answer(b"", 503))
    assert get.fails(f"{web.url}/other.tgz").found.endswith(": the server answers 503")


@pytest.mark.parametrize(("status", "mend"), [(404, "is the URL right?"), (403, "signed URL")])
def test_a_refusal_is_final(status: int, mend: str, get: Fetch, web: Site) -> None:
    web.pages["/support.tgz"] = always(Answer(b"", status))
    error = get.fails(f"{web.url}/support.tgz")
    assert error.found == f"the server answers {status}"
    assert mend in error.mend
    assert len(web.asked) == 1


def test_a_server_that_is_not_there(get: Fetch) -> None:
    with site() as gone:
        url = gone.url.replace("http:", "https:")
    error = get.fails(f"{url}/support.tgz")
    assert "ConnectError" in error.found
    assert len(get.slept) == 3


def test_a_server_whose_certificate_is_not_trusted(get: Fetch, web: Site) -> None:
    web.pages["/support.tgz"] = always(Answer(tar(files())))
    get.credentials = Credentials()
    assert "CERTIFICATE_VERIFY_FAILED" in get.fails(f"{web.url}/support.tgz").found
    assert web.asked == []


def test_a_redirect_is_followed(get: Fetch, web: Site) -> None:
    web.pages["/latest"] = always(Answer(b"", 302, {"location": "/support.tgz"}))
    web.pages["/support.tgz"] = always(Answer(tar(files())))
    assert get(f"{web.url}/latest").digest == digest()


def test_a_circle_of_redirects_is_left(get: Fetch, web: Site) -> None:
    web.pages["/a"] = always(Answer(b"", 302, {"location": "/a"}))
    assert "TooManyRedirects" in get.fails(f"{web.url}/a").found
    assert len(web.asked) == 6


def test_plain_http_needs_a_pin(get: Fetch) -> None:
    packed = tar(files())
    with site() as plain:
        plain.pages["/support.tgz"] = always(Answer(packed))
        error = get.fails(f"{plain.url}/support.tgz")
        assert "is not https" in error.found
        assert plain.asked == []
        assert get(f"{plain.url}/support.tgz", f"sha256:{sha256(packed)}").digest == digest()


def test_a_redirect_to_plain_http_needs_a_pin_too(get: Fetch, web: Site) -> None:
    with site() as plain:
        plain.pages["/support.tgz"] = always(Answer(tar(files())))
        to = f"{plain.url}/support.tgz"
        web.pages["/latest"] = always(Answer(b"", 302, {"location": to}))
        error = get.fails(f"{web.url}/latest")
        assert f"leads to {to}, which is not https" in error.found
        assert plain.asked == []
        assert get(f"{web.url}/latest", f"sha256:{digest()}").digest == digest()


def test_what_was_fetched_is_there_though_its_source_is_away(get: Fetch, web: Site) -> None:
    url = f"{web.url}/support.tgz"
    web.pages["/support.tgz"] = always(Answer(tar(files())))
    first = get(url)
    web.pages.clear()
    web.asked.clear()
    assert get(url) == first
    assert web.asked == []
    get.shelf.remove(first.digest)
    assert get.fails(url).found == "the server answers 404"


def test_asked_again_it_is_fetched_if_it_has_changed(get: Fetch, web: Site) -> None:
    url = f"{web.url}/support.tgz"
    web.pages["/support.tgz"] = in_parts(tar(files()), tag='"v1"')
    first = get(url)
    assert get(url, again=True) == first
    assert [each.method for each in web.asked] == ["GET", "HEAD"]
    web.pages["/support.tgz"] = in_parts(tar(files(1)), tag='"v2"')
    assert get(url, again=True).digest == digest(1)
    assert get(url).digest == digest(1)


def test_asked_again_without_head_or_tag_it_is_fetched(get: Fetch, web: Site) -> None:
    url = f"{web.url}/support.tgz"
    for seed in (0, 1, 2):
        web.pages["/support.tgz"] = lambda request, seed=seed: (  # type: ignore[misc]
            Answer(b"", 405) if request.method == "HEAD" else Answer(tar(files(seed)))
        )
        assert get(url, again=True).digest == digest(seed)


def test_an_archive_that_is_too_large(get: Fetch, web: Site) -> None:
    url, packed = f"{web.url}/support.tgz", tar(files())
    web.pages["/support.tgz"] = always(Answer(packed))
    said = f"and the limit is {len(packed) - 1}"
    assert said in get.fails(url, limits=Limits(fetched=len(packed) - 1)).found
    web.pages["/support.tgz"] = always(Answer(packed, measured=False))
    assert said in get.fails(url, limits=Limits(fetched=len(packed) - 1)).found
    assert get(url, limits=Limits(fetched=len(packed)))


def test_an_archive_that_comes_too_slowly(get: Fetch, web: Site) -> None:
    web.pages["/support.tgz"] = always(Answer(tar(files())))
    ticks = iter(range(0, 10_000, 100))
    error = get.fails(
        f"{web.url}/support.tgz", limits=Limits(total_s=50), clock=lambda: next(ticks)
    )
    assert "have come in 50 s" in error.found


def test_secrets_of_a_url_are_used_and_not_told(get: Fetch, web: Site) -> None:
    url = web.url.replace("://", "://robot:hunter2@")
    error = get.fails(f"{url}/support.tgz?X-Amz-Signature=abc")
    asked = web.asked[0]
    assert asked.headers["authorization"].startswith("Basic ")
    assert asked.path == "/support.tgz?X-Amz-Signature=abc"
    assert str(error) == f"{web.url}/support.tgz: the server answers 404; is the URL right?"
    web.pages["/support.tgz"] = in_parts(tar(files()))
    get(f"{url}/support.tgz?X-Amz-Signature=abc")
    index = (get.shelf.root / ".index.json").read_text()
    assert "hunter2" not in index + str(error)
    assert "X-Amz" not in index


def test_credentials_do_not_follow_a_redirect_elsewhere(get: Fetch, web: Site) -> None:
    with site() as other:
        other.pages["/x"] = always(Answer(tar(files())))
        web.pages["/x"] = always(Answer(b"", 302, {"location": f"{other.url}/x"}))
        get(f"{web.url.replace('://', '://robot:hunter2@')}/x", f"sha256:{digest()}")
        assert "authorization" in web.asked[0].headers
        assert "authorization" not in other.asked[0].headers


def test_secrets_in_a_librarys_words_are_hidden() -> None:
    credentials = Credentials(s3_key="AKIA1", s3_secret="s3cret", hf_token="hf_abc")
    said = credentials.hidden_in("AKIA1 s3cret hf_abc https://u:p@h/x?sig=1 'https://h/y?t=2'")
    assert said == "… … … https://…@h/x?… 'https://h/y?…'"
    assert "s3cret" not in repr(credentials) + str(credentials)
    assert "hf_abc" not in repr(credentials)


# ---------------------------------------------------------------- hostile archives


def tar_with(*infos: tarfile.TarInfo) -> bytes:
    """A .tar.gz of an adapter and of these members, which have no content."""
    out = io.BytesIO(gzip.decompress(tar(files())))
    with tarfile.open(fileobj=out, mode="a:") as packed:
        for info in infos:
            packed.addfile(info)
    return gzip.compress(out.getvalue())


def member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, body in files().items():
            packed.writestr(name, body)
        info = zipfile.ZipInfo("extra.json")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    return out.getvalue()


def encrypted() -> bytes:
    """As the flag in each header says it."""
    packed = bytearray(zipped(files()))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = packed.find(signature)
        while start >= 0:
            packed[start + place] |= 1
            start = packed.find(signature, start + 1)
    return bytes(packed)


def flipped(packed: bytes, at: int) -> bytes:
    changed = bytearray(packed)
    changed[at] ^= 0xFF
    return bytes(changed)


def long_header(size: int) -> bytes:
    """A tar whose first header says that a name of this length follows."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(size))


HOSTILE = {
    "up": (tar({**files(), "../evil.json": b"{}"}), "'../evil.json' leads out of it"),
    "absolute": (tar({**files(), "/srv/evil.json": b"{}"}), "'/srv/evil.json' leads out of it"),
    "up in a zip": (zipped({**files(), "a/../../evil.json": b"{}"}), "leads out of it"),
    "backslash": (tar({**files(), "..\\evil.json": b"{}"}), "leads out of it"),
    "link": (
        tar_with(member("x.json", tarfile.SYMTYPE, "/etc/passwd")),
        "'x.json' is a link, a device or sparse",
    ),
    "hard link": (tar_with(member("x.json", tarfile.LNKTYPE, "/etc/passwd")), "is a link"),
    "device": (tar_with(member("x.json", tarfile.CHRTYPE)), "a device"),
    "fifo": (tar_with(member("README", tarfile.FIFOTYPE)), "a device"),
    "sparse": (tar_with(member("x.json", tarfile.GNUTYPE_SPARSE)), "sparse"),
    "link in a zip": (zip_link(), "'extra.json' is a link"),
    "encrypted": (encrypted(), "is encrypted"),
    "many": (tar({**files(), **{f"{n}.txt": b"" for n in range(200)}}), "more than 100 members"),
    "many in a zip": (zipped({f"{n}.txt": b"" for n in range(200)}), "more than 100 members"),
    "bomb": (tar({**files(), "zeros.json": bytes(3_000_000)}), "more than 2000000 bytes"),
    "bomb that is not kept": (tar({**files(), "zeros.bin": bytes(3_000_000)}), "more than 2000000"),
    "bomb in a zip": (zipped({**files(), "zeros.json": bytes(3_000_000)}), "more than 2000000"),
    "long name": (long_header(5_000_000), "a header of 5000192 bytes"),
    "twice": (tar_with(member("adapter_config.json", tarfile.REGTYPE)), "twice"),
    "file and directory": (
        tar({**files(), "a.json": b"{}", "a.json/b.json": b"{}"}),
        "'a.json/b.json' twice",
    ),
    "cut": (tar(files())[:-100], "is broken: EOFError"),
    "changed": (flipped(tar(files()), -6), "is broken: BadGzipFile"),
    "zip cut": (zipped(files())[:-30], "is broken: BadZipFile"),
    "zip changed": (flipped(zipped(files()), 150), "is broken"),
    "no tar": (gzip.compress(b"x" * 2000), "is broken: ReadError"),
    "no archive": (b"something else", "is neither a .tar.gz nor a .zip"),
    "nothing": (b"", "is neither a .tar.gz nor a .zip"),
    "page": (b"<!DOCTYPE html><html>", "is a web page"),
    "no adapter": (tar({"README.md": b"x"}), "has no adapter_config.json"),
    "two": (tar({**below("a/"), **below("b/", files(1))}), "has several adapters, in a, b"),
    "no weights": (
        tar({"adapter_config.json": b"{}", "adapter_model.bin": b""}),
        "has no adapter_model.safetensors",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(name: str, get: Fetch, web: Site) -> None:
    packed, said = HOSTILE[name]
    web.pages["/x.tgz"] = always(Answer(packed))
    error = get.fails(f"{web.url}/x.tgz", limits=Limits(members=100, unpacked=2_000_000))
    assert said in error.found
    assert error.mend
    assert not list(get.home.rglob("evil*"))
    assert len(web.asked) == 1


# ---------------------------------------------------------------- S3


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


SIGNED = {
    "authorization": "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
"""Whose signature moto does not look at, but whose place it does."""


class Store:
    """A bucket of moto's."""

    def __init__(self, url: str) -> None:
        self.url = url
        httpx.post(f"{url}/moto-api/reset").raise_for_status()
        httpx.put(f"{url}/models").raise_for_status()

    def put(self, prefix: str, members: Mapping[str, bytes]) -> None:
        for name, body in members.items():
            url = f"{self.url}/models/{prefix}{name}"
            httpx.put(url, content=body, headers=SIGNED).raise_for_status()


@pytest.fixture
def s3(moto: str, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(get.home / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(get.home / "none"))
    get.credentials = Credentials(s3_key="AKIAEXAMPLE", s3_secret="s3cret-key", s3_endpoint=moto)
    return Store(moto)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_of_a_bucket(slash: str, get: Fetch, s3: Store) -> None:
    s3.put("support/v7/", {**files(), "README.md": b"x", "adapter_model.bin": b"x"})
    s3.put("support/v7/checkpoint-10/", files(1))
    s3.put("support/v70/", files(1))
    entry = get(f"s3://models/support/v7{slash}")
    assert entry.digest == digest()
    assert get.shelf.verify(entry.digest) == entry
    assert get.told[-1] == (entry.size, entry.size)


def test_a_prefix_that_has_not_changed_is_not_fetched_again(get: Fetch, s3: Store) -> None:
    s3.put("support/", files())
    entry = get("s3://models/support")
    assert get.told
    get.told.clear()
    assert get("s3://models/support", again=True) == entry
    assert get.told == []
    s3.put("support/", files(1))
    assert get("s3://models/support") == entry
    assert get("s3://models/support", again=True).digest == digest(1)


def test_what_changes_while_it_is_fetched_is_not_kept(get: Fetch, s3: Store) -> None:
    s3.put("support/", files())
    changed: list[tuple[int, int | None]] = []

    def change(done: int, total: int | None) -> None:
        if not changed:
            s3.put("support/", files(1))
        changed.append((done, total))

    with pytest.raises(SourceError, match="was changed while it was fetched"):
        fetch(
            "s3://models/support",
            base=get.base,
            into=get.shelf,
            progress=change,
            credentials=get.credentials,
        )
    assert get.shelf.digests() == ()


def test_a_pinned_prefix(get: Fetch, s3: Store) -> None:
    s3.put("support/", files())
    error = get.fails("s3://models/support", f"sha256:{digest(1)}")
    assert f"sha256:{digest()}, and not the sha256:{digest(1)}" in error.found
    assert get("s3://models/support", f"sha256:{digest()}").digest == digest()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("s3://models/nothing", "there is nothing there"),
        ("s3://no-such-bucket/x", "there is nothing there"),
        ("s3:///x", "names no bucket"),
        ("s3://models/readme", "has no adapter_config.json and no adapter_model.safetensors"),
    ],
)
def test_a_bucket_without_an_adapter(source: str, said: str, get: Fetch, s3: Store) -> None:
    s3.put("readme/", {"README.md": b"x"})
    assert get.fails(source).found == said


def test_objects_that_are_too_large(get: Fetch, s3: Store) -> None:
    s3.put("support/", files())
    assert "the limit is 100" in get.fails("s3://models/support", limits=Limits(fetched=100)).found


def test_a_bucket_that_cannot_be_reached(get: Fetch, s3: Store) -> None:
    with site() as gone:
        url = gone.url
    get.credentials = Credentials(s3_key="AKIA", s3_secret="s3cret-key", s3_endpoint=url)
    error = get.fails("s3://models/support", limits=Limits(attempts=1))
    assert "Could not connect to the endpoint" in error.found
    assert "s3cret-key" not in str(error)


def test_without_credentials_it_is_said_what_to_set(get: Fetch, s3: Store) -> None:
    get.credentials = Credentials(s3_endpoint=s3.url)
    assert "AWS_ACCESS_KEY_ID" in get.fails("s3://models/support").mend


def test_a_bucket_that_refuses_us(get: Fetch) -> None:
    with site() as refusing:
        refusing.answer = always(Answer(b"", 403))  # type: ignore[method-assign,assignment]
        get.credentials = Credentials(s3_key="A", s3_secret="B", s3_endpoint=refusing.url)
        assert "the bucket refuses us" in get.fails("s3://models/support").found


def test_an_object_that_breaks_off_is_taken_up_where_it_was(get: Fetch) -> None:
    weights = in_parts(files()["adapter_model.safetensors"], 100)
    config = in_parts(files()["adapter_config.json"])
    listed = "".join(
        f"<Contents><Key>support/{name}</Key><Size>{len(body)}</Size><ETag>x</ETag>"
        f"<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        for name, body in files().items()
    )
    page = f"<ListBucketResult><KeyCount>2</KeyCount>{listed}</ListBucketResult>".encode()
    with site() as server:
        server.pages = {
            "/models": always(Answer(page, 200, {"content-type": "application/xml"})),
            "/models/support/adapter_config.json": config,
            "/models/support/adapter_model.safetensors": lambda request: weights(
                # botocore sends no If-Range: the listing is compared afterwards
                request._replace(headers={**request.headers, "if-range": '"v1"'})
            ),
        }
        get.credentials = Credentials(s3_key="A", s3_secret="B", s3_endpoint=server.url)
        entry = get("s3://models/support")
        ranges = [each.headers.get("range") for each in server.said("GET")]
    assert entry.digest == digest()
    assert "bytes=100-" in ranges
    assert get.told[-1] == (entry.size, entry.size)


# ---------------------------------------------------------------- the Hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEWER = "f" * 40


class Hub:
    """As much of the Hub's API as huggingface_hub asks for, for one repository."""

    def __init__(self, web: Site) -> None:
        self.web = web
        self.revisions = {"main": COMMIT, "v2": NEWER, "refs/pr/1": NEWER}
        self.trees = {COMMIT: below("", files()), NEWER: below("lora/", files(1))}
        self.lies: dict[str, str] = {}
        web.answer = self.answer  # type: ignore[method-assign]

    def answer(self, request: Request) -> Answer:
        self.web.asked.append(request)
        path = unquote(request.path.partition("?")[0])
        api, repository = "/api/models/acme/support/", "/acme/support/resolve/"
        if path.startswith(f"{api}revision/"):
            commit = self._commit(path.removeprefix(f"{api}revision/"))
            if commit is None:
                return Answer(b"", 404, {"x-error-code": "RevisionNotFound"})
            return _json({"id": "acme/support", "sha": commit, "siblings": []})
        if path.startswith(f"{api}tree/"):
            commit, _, folder = path.removeprefix(f"{api}tree/").partition("/")
            return self._tree(commit, folder)
        if path.startswith(repository):
            commit, _, name = path.removeprefix(repository).partition("/")
            return self._file(request, commit, self.trees[commit][name])
        code = "GatedRepo" if "gated" in path else "RepoNotFound"
        return Answer(b"", 403 if "gated" in path else 401, {"x-error-code": code})

    def _commit(self, revision: str) -> str | None:
        return revision if revision in self.trees else self.revisions.get(revision)

    def _tree(self, commit: str, folder: str) -> Answer:
        found: list[dict[str, Any]] = []
        prefix = f"{folder}/" if folder else ""
        for path, body in self.trees[commit].items():
            if not path.startswith(prefix):
                continue
            inner, _, rest = path.removeprefix(prefix).partition("/")
            if rest:
                found.append({"type": "directory", "path": prefix + inner, "oid": "0" * 40})
                continue
            entry = {"type": "file", "path": path, "size": len(body), "oid": sha256(body)[:40]}
            if path.endswith(".safetensors"):
                oid = self.lies.get(path, sha256(body))
                entry["lfs"] = {"oid": oid, "size": len(body), "pointerSize": 134}
            found.append(entry)
        if not found:
            return Answer(b"", 404, {"x-error-code": "EntryNotFound"})
        return _json(found)

    def _file(self, request: Request, commit: str, body: bytes) -> Answer:
        headers = {"x-repo-commit": commit, "etag": f'"{sha256(body)[:40]}"'}
        return Answer(body, 200, headers)


def _json(body: object) -> Answer:
    return Answer(json.dumps(body).encode(), 200, {"content-type": "application/json"})


@pytest.fixture
def hub(get: Fetch) -> Iterator[Hub]:
    with site() as found:
        get.credentials = Credentials(hf_token="hf_secret", hf_endpoint=found.url)
        yield Hub(found)


@pytest.mark.parametrize(
    ("source", "seed"),
    [
        ("hf://acme/support", 0),
        ("hf://acme/support/", 0),
        ("hf://acme/support@main", 0),
        (f"hf://acme/support@{COMMIT}", 0),
        ("hf://acme/support@v2/lora", 1),
        ("hf://acme/support@refs%2Fpr%2F1/lora/", 1),
    ],
)
def test_a_repository(source: str, seed: int, get: Fetch, hub: Hub) -> None:
    entry = get(source)
    assert entry.digest == digest(seed)
    assert get.shelf.verify(entry.digest) == entry
    assert get.told[-1] == (entry.size, entry.size)
    assert {each.headers.get("authorization") for each in hub.web.asked} == {"Bearer hf_secret"}


def test_only_a_repositorys_adapter_is_fetched(get: Fetch, hub: Hub) -> None:
    more = {"README.md": b"x", "adapter_model.bin": b"x", "checkpoint-1/adapter_config.json": b"x"}
    hub.trees[COMMIT].update(more)
    assert get("hf://acme/support").digest == digest()
    fetched = {each.path.rpartition("/")[2] for each in hub.web.asked if "/resolve/" in each.path}
    assert fetched == set(files())


def test_a_branch_that_has_not_moved_is_not_fetched_again(get: Fetch, hub: Hub) -> None:
    entry = get("hf://acme/support")
    hub.web.asked.clear()
    assert get("hf://acme/support") == entry
    assert hub.web.asked == []
    assert get("hf://acme/support", again=True) == entry
    assert [each.path for each in hub.web.asked if "/resolve/" in each.path] == []
    hub.trees[NEWER] = files(2)
    hub.revisions["main"] = NEWER
    assert get("hf://acme/support", again=True).digest == digest(2)


def test_weights_that_are_not_what_the_repository_says(get: Fetch, hub: Hub) -> None:
    hub.lies["adapter_model.safetensors"] = "0" * 64
    error = get.fails("hf://acme/support")
    assert "adapter_model.safetensors is not what the repository says it is" in error.found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf://acme/other", "there is no such repository, or it is private"),
        ("hf://acme/gated", "the repository is gated"),
        ("hf://acme/support@v9", "there is no such revision or folder"),
        ("hf://acme/support/nothing", "there is no such revision or folder"),
        ("hf://acme/support@v2", "has no adapter_config.json and no adapter_model.safetensors"),
        ("hf://support", "names no repository"),
        ("hf://acme/support/../x", "names no repository"),
        ("hf://acme/support@", "names no repository"),
    ],
)
def test_a_repository_without_an_adapter(source: str, said: str, get: Fetch, hub: Hub) -> None:
    error = get.fails(source)
    assert error.found.startswith(said)
    assert "hf_secret" not in str(error)


def test_a_repository_that_is_too_large(get: Fetch, hub: Hub) -> None:
    assert "the limit is 100" in get.fails("hf://acme/support", limits=Limits(fetched=100)).found


def test_a_hub_that_cannot_be_reached(get: Fetch) -> None:
    with site() as gone:
        get.credentials = Credentials(hf_token="hf_secret", hf_endpoint=gone.url)
    error = get.fails("hf://acme/support")
    assert "cannot be read" in error.found
    assert "hf_secret" not in str(error)


# ---------------------------------------------------------------- without the extra


@pytest.mark.parametrize(
    ("source", "library"), [("s3://models/x", "s3fs"), ("hf://acme/x", "huggingface_hub")]
)
def test_without_the_extra_it_is_said_what_to_install(
    source: str, library: str, tmp_path: Path
) -> None:
    """In a process of its own, where the library is not to be found."""
    program = f"""
import sys
from pathlib import Path
sys.modules[{library!r}] = None
from gateway.adapters.shelf import Shelf
from gateway.adapters.sources import SourceError, fetch
try:
    fetch({source!r}, base=Path(), into=Shelf(Path({str(tmp_path)!r})))
except SourceError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith(f"{source}: needs {library}, which is not installed")
    assert ran.stdout.endswith('; install it with: pip install "switchboard[sources]"\n')


def test_what_is_not_needed_is_not_imported() -> None:
    program = (
        "import sys; import gateway.adapters.sources; "
        "print([m for m in ('s3fs', 'huggingface_hub', 'fsspec') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"
