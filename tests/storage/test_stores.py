"""Every store by the same calls: results, retries, and errors in one line.

Each emulator stands behind a front that does harm as told.
"""

import os
import re
import signal
import time

import numpy as np
import pytest
import tifffile

from tests.cloud import stores as loopback
from tests.cloud.front import Fault
from tests.commands import PYTHON, process
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import count_pages, read_image
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.storage import files, local_copies, stores

WRITABLE = ("gs", "s3", "az")
ALL = (*WRITABLE, "http")
MANY = 200  # faults: more than anybody tries again
pytestmark = pytest.mark.filterwarnings(
    # Said to gcsfs and adlfs, by aiohttp.
    "ignore:Sending a large body directly with raw bytes:ResourceWarning",
)
QUICK = (
    "gs",
    "s3",
    "http",
)  # Azure's client pauses for 15 s and more before it repeats


@pytest.fixture
def store(request, tmp_path, monkeypatch):
    """An empty bucket of the store that a test names, to which this process is led."""
    folder = tmp_path / "server"
    folder.mkdir()
    with loopback.OPENERS[request.param](folder) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        stores.forget()
        yield found
        stores.forget()


def each(*schemes):
    return pytest.mark.parametrize("store", schemes, indirect=True)


@each(*ALL)
def test_parts_of_a_large_tiff_are_read_where_it_is(store, tmp_path, monkeypatch):
    """Of one of 4 MB some blocks are asked for, and it is never copied."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2048, 2048), np.uint8)
    for name, how in (
        ("tiles", {"tile": (128, 128), "compression": "zlib"}),
        ("strips", {"rowsperstrip": 64}),
        ("pyramid", {"tile": (128, 128), "bigtiff": True}),
    ):
        tifffile.imwrite(tmp_path / "a.tif", image, **how)
        store.put(f"{name}.tif", (tmp_path / "a.tif").read_bytes())
    monkeypatch.setattr(local_copies, "FAR", 2**20)
    monkeypatch.setattr(local_copies, "BLOCK", 2**16)
    monkeypatch.setattr(local_copies, "_fetched", None)
    for name in ("tiles", "strips", "pyramid"):
        asked = []
        whole = files.read_range

        def noted(path, start, end, asked=asked, whole=whole):
            asked.append((start, end))
            return whole(path, start, end)

        monkeypatch.setattr(files, "read_range", noted)
        page = Page(f"{store.root}/{name}.tif")
        assert count_pages(page.path) == 1
        window = slice(500, 600), slice(1000, 1100)
        found = read_image(page, 1, window=window)
        np.testing.assert_array_equal(found[..., 0], image[window])
        monkeypatch.setattr(files, "read_range", whole)
        assert 0 < sum(end - start for start, end in asked) < 1.2e6
        assert len(set(asked)) == len(asked)  # none twice


def test_a_file_that_is_cut_or_closed_is_not_read(tmp_path, monkeypatch):
    """`_Ranged`: an object that has become shorter is an error, and no short read."""
    path = tmp_path / "a"
    path.write_bytes(bytes(range(100)))
    monkeypatch.setattr(local_copies, "BLOCK", 16)
    file = local_copies._Ranged(str(path), 100, "one")
    file.seek(-30, os.SEEK_END)
    assert file.read(20) == bytes(range(70, 90)) and file.read() == bytes(
        range(90, 100)
    )
    path.write_bytes(b"short")
    file.seek(0)
    with pytest.raises(UserError, match="has changed while it was read"):
        file.read(50)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


# --- What is done with files ----------------------------------------------------------


@each(*WRITABLE)
def test_files_are_written_listed_read_and_removed(store):
    root = store.root
    with files.open_atomic(f"{root}/a/b.bin") as file:
        file.write(b"content")
    files.write_bytes(f"{root}/a/c/d.bin", b"more")
    files.write_bytes(f"{root}/a/.hidden", b"")
    assert store.names() == ["a/.hidden", "a/b.bin", "a/c/d.bin"]
    assert store.get("a/b.bin") == b"content"
    files.remove([f"{root}/a/b.bin", f"{root}/a/none"])
    assert store.names() == ["a/.hidden", "a/c/d.bin"]
    assert not any(files.TEMPORARY in name for name in store.names())


@each(*ALL)
def test_files_are_listed_and_read(store):
    root = store.root
    for name in ("a/b.bin", "a/b2.txt", "a/c/d.bin", "a/c/e/f.bin", "a/.hidden", "ab"):
        store.put(name, name.encode())
    assert files.read_bytes(f"{root}/a/b.bin") == b"a/b.bin"
    with files.open_read(f"{root}/a/b.bin") as file:
        assert file.read(2) == b"a/"
        file.seek(4)
        assert file.read() == b"bin"
    assert files.size_of(f"{root}/a/b.bin") == 7
    assert files.sizes_in(f"{root}/a") == {f"{root}/a/b.bin": 7, f"{root}/a/b2.txt": 8}
    assert files.list_files(f"{root}/a") == [f"{root}/a/b.bin", f"{root}/a/b2.txt"]
    assert files.list_files(f"{root}/a/") == [f"{root}/a/b.bin", f"{root}/a/b2.txt"]
    assert files.list_folders(f"{root}/a") == ["c"]
    assert files.list_below(f"{root}/a") == ["b.bin", "b2.txt", "c/d.bin", "c/e/f.bin"]
    assert files.glob_in(f"{root}/a", "*.bin") == [f"{root}/a/b.bin"]
    below = [f"{root}/a/c/d.bin", f"{root}/a/c/e/f.bin"]
    assert list(files.updated(f"{root}/a/c/*.bin")) == below[:1]
    assert list(files.updated(f"{root}/a/c/**/*.bin")) == below
    assert list(files.updated_below(f"{root}/a/c")) == below
    assert files.exists(f"{root}/a/b.bin") and not files.exists(f"{root}/a/none")
    if not isinstance(store, loopback.WebStore):  # where a folder has a page
        assert not files.exists(f"{root}/a")
    if not isinstance(store, loopback.WebStore):
        assert (
            files.list_below(f"{root}/none") == files.list_folders(f"{root}/none") == []
        )
    with pytest.raises(FileNotFoundError, match=f"{root}/a/none: no such object"):
        files.read_bytes(f"{root}/a/none")
    with pytest.raises(FileNotFoundError):
        files.size_of(f"{root}/a/none")


@each(*WRITABLE)
def test_objects_that_stand_for_folders_are_none(store):
    """Consoles and other tools make them, empty, with a slash at the end."""
    root = store.root
    for name in ("raw/", "raw/a.bin", "raw/sub/", "raw/sub/b.bin", "raw2/c.bin"):
        store.put(name, b"" if name.endswith("/") else b"abc")
    assert files.list_files(f"{root}/raw") == [f"{root}/raw/a.bin"]
    assert files.list_folders(f"{root}/raw") == ["sub"]
    assert files.list_below(f"{root}/raw") == ["a.bin", "sub/b.bin"]
    assert files.sizes_in(f"{root}/raw") == {f"{root}/raw/a.bin": 3}
    store.put("p", b"an object beside a folder of its name")
    store.put("p/q", b"q")
    assert files.list_files(f"{root}/p") == [f"{root}/p/q"]
    assert list(files.updated(f"{root}/p")) == [f"{root}/p"]
    assert files.list_below(f"{root}/p/q") == []


@each(*WRITABLE)
def test_many_objects_are_listed(store):
    names = [f"many/{index:04d}" for index in range(1100)]  # a page holds 1,000
    for name in names:
        store.put(name, b"")
    assert len(files.list_below(f"{store.root}/many")) == len(names)
    assert len(files.list_files(f"{store.root}/many")) == len(names)


PAGES = {
    "apache": '<a href="?C=N;O=D">Name</a> <a href="/">Parent Directory</a> '
    '<a href="a%20b.bin">a b.bin</a> <a href="b&amp;c.bin">b&amp;c</a> '
    '<a href="sub/">sub/</a>',
    "nginx": '<a href="../">../</a> <a href="a%20b.bin">a</a> <a href="b&c.bin">b</a> '
    '<a href="sub/">sub/</a> <a href="mailto:me@h.org">me</a>',
    "caddy": "<a href=./a%20b.bin>a</a> <a href=./b&amp;c.bin>b</a> "
    "<a href=./sub/>sub</a>",
    "absolute": '<a href="{0}">here</a> <a href="{0}a%20b.bin">a</a> '
    '<A HREF="/models/d/b%26c.bin">b</A> <a href="/models/d/sub/">sub</a> '
    '<a href="javascript:x()">x</a>',
}


@each("http")
@pytest.mark.parametrize("kind", PAGES)
def test_pages_of_servers(store, kind):
    folder = f"{store.root}/d"
    for name in ("a b.bin", "b&c.bin", "sub/e.bin"):
        store.put(f"d/{name}", b"abc")
    store.put("d/index.html", f"<html>{PAGES[kind]}".format(f"{folder}/").encode())
    assert files.list_files(folder) == [f"{folder}/a b.bin", f"{folder}/b&c.bin"]
    assert files.list_folders(folder) == ["sub"]
    assert files.list_below(folder) == ["a b.bin", "b&c.bin", "sub/e.bin"]
    assert files.sizes_in(folder) == {f"{folder}/a b.bin": 3, f"{folder}/b&c.bin": 3}
    assert list(files.updated(f"{folder}/*c.bin")) == [f"{folder}/b&c.bin"]


@each("http")
def test_a_server_without_lists_says_so(store):
    store.put("d/a.bin", b"abc")
    assert files.read_bytes(f"{store.root}/d/a.bin") == b"abc"
    assert list(files.updated(f"{store.root}/d/a.bin")) == [f"{store.root}/d/a.bin"]
    with pytest.raises(UserError, match="/none: the server lists no files there"):
        files.list_below(f"{store.root}/none")
    (store.folder / "models/empty").mkdir()
    assert files.list_below(f"{store.root}/empty") == []


@each(*WRITABLE)
def test_times_are_those_of_the_store(store):
    files.write_bytes(f"{store.root}/a", b"a")
    [changed] = files.updated(f"{store.root}/*").values()
    assert abs(changed - time.time()) < 60


@each(*ALL)
def test_names_as_people_give_them(store):
    names = ["my cells/é ü.png", "a&b/c+d,e;f@g~h=i.png", "x/50%.png"]
    for name in names:
        store.put(name, name.encode())
        assert files.read_bytes(f"{store.root}/{name}") == name.encode()
    if isinstance(store, loopback.WebStore):  # where % in a name stays quoted
        names[-1] = "x/50%25.png"
        assert files.read_bytes(f"{store.root}/{names[-1]}") == b"x/50%.png"
    assert files.list_below(store.root) == sorted(names)


@each("gs", "s3", "http")
def test_names_like_patterns_are_read(store):
    folder = f"{store.root}/run[1]*"
    store.put("run[1]*/a.bin", b"abc")
    store.put("run1x/b.bin", b"another")
    assert files.list_files(folder) == [f"{folder}/a.bin"]
    assert files.sizes_in(folder) == {f"{folder}/a.bin": 3}
    assert files.read_bytes(f"{folder}/a.bin") == b"abc"


@each(*WRITABLE)
@pytest.mark.parametrize("name", ["run[1]/c.bin", "a\tb.bin", "a\nb.bin"])
def test_names_that_clients_misread_are_not_written(store, name):
    with pytest.raises(UserError, match="a name with"):
        files.write_bytes(f"{store.root}/{name}", b"c")


@each(*WRITABLE)
def test_of_those_who_make_an_object_that_must_be_new_one_does(store):
    path = f"{store.root}/claims/1"
    stores.put(b"first", path, new=True)
    with pytest.raises(FileExistsError):
        stores.put(b"second", path, new=True)
    assert store.get("claims/1") == b"first"


@each(*WRITABLE)
def test_what_fails_half_way_is_not_seen(store):
    with pytest.raises(KeyError, match="the reason"):
        with files.open_atomic(f"{store.root}/never.bin") as file:
            file.write(bytes(100))
            raise KeyError("the reason")
    assert store.names() == []


@pytest.mark.slow
@each(*WRITABLE)
def test_large_files_pass_in_parts(store, tmp_path):
    content = os.urandom(60 << 20)
    (tmp_path / "large").write_bytes(content)
    files.copy(str(tmp_path / "large"), f"{store.root}/large")
    assert store.get("large") == content
    files.copy(f"{store.root}/large", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == content


@each("http")
def test_the_web_is_read_only(store):
    with pytest.raises(UserError, match="web servers are read only"):
        files.write_bytes(f"{store.root}/a", b"a")


# --- What passes ---------------------------------------------------------------------


@pytest.mark.slow
@each(*QUICK)
@pytest.mark.parametrize(
    "fault",
    [Fault(429, "rateLimitExceeded"), Fault(503), Fault(reset_after=100_000)],
    ids=["429", "503", "reset"],
)
def test_reading_goes_on_after(store, fault):
    content = os.urandom(300_000)
    store.put("a/b.bin", content)
    store.harm(store.reads, fault, fault)
    assert files.read_bytes(f"{store.root}/a/b.bin") == content
    assert not store.untouched
    store.harm(store.reads, fault, fault)
    with files.open_read(f"{store.root}/a/b.bin") as file:
        assert file.read() == content
    assert not store.untouched


@pytest.mark.slow
@each(*QUICK)
@pytest.mark.parametrize("status", [429, 503])
def test_listing_and_writing_go_on_after(store, status):
    store.put("a/a.bin", b"a")
    store.harm(store.lists, Fault(status))
    assert files.list_below(f"{store.root}/a") == ["a.bin"]
    if not isinstance(store, loopback.WebStore):
        store.harm(store.writes, Fault(status))
        content = os.urandom(100_000)
        files.write_bytes(f"{store.root}/a/b.bin", content)
        store.harm(store.writes, Fault(status))
        with files.open_atomic(f"{store.root}/a/c.bin") as file:
            file.write(content)
        assert store.get("a/b.bin") == store.get("a/c.bin") == content
    assert not store.untouched


@pytest.mark.long
@each("az")
def test_azures_client_repeats_too(store):
    content = os.urandom(300_000)
    store.put("a/b.bin", content)
    store.harm(store.reads, Fault(503))
    assert files.read_bytes(f"{store.root}/a/b.bin") == content
    store.harm(store.lists, Fault(429))
    assert files.list_below(f"{store.root}/a") == ["b.bin"]
    store.harm(store.writes, Fault(503))
    files.write_bytes(f"{store.root}/a/c.bin", content)
    assert store.get("a/c.bin") == content and not store.untouched


@each("az")
def test_azures_broken_answers_are_asked_for_again(store):
    content = os.urandom(300_000)
    store.put("a/b.bin", content)
    store.harm(store.reads, Fault(reset_after=100_000))
    assert files.read_bytes(f"{store.root}/a/b.bin") == content
    assert not store.untouched


@pytest.mark.slow
@each(*ALL)
def test_a_slow_store_is_waited_for(store):
    store.put("a.bin", bytes(100_000))
    store.harm(store.reads, Fault(pause_s=0.2))
    assert files.read_bytes(f"{store.root}/a.bin") == bytes(100_000)


@pytest.fixture
def logged_in(store, tmp_path, monkeypatch):
    """A bucket that wants tokens, and this process with an account that gets them."""
    login = loopback.google_account(tmp_path, store)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(login))
    store.tokens = set()
    return store


@each("gs")
def test_a_token_that_expires_is_renewed(logged_in):
    store = logged_in
    store.token_lasts_s = 1  # which is sooner than it is thought safe to use
    store.put("a.bin", b"a")
    for _ in range(2):
        given = store.tokens_given
        store.tokens.clear()
        assert files.read_bytes(f"{store.root}/a.bin") == b"a"
        assert store.tokens_given > given


@pytest.mark.long
@each("gs")
def test_a_token_that_is_withdrawn_is_renewed(logged_in):
    store = logged_in
    store.put("a.bin", b"a")
    assert files.read_bytes(f"{store.root}/a.bin") == b"a"
    store.tokens.clear()
    assert files.read_bytes(f"{store.root}/a.bin") == b"a"
    assert store.tokens_given == 2


@pytest.mark.slow
@each(*ALL)
def test_a_login_that_is_renewed_loses_nothing(store):
    content = os.urandom(100_000)
    store.put("a.bin", content)
    for call in (files.read_bytes, read_slowly, read_near):
        store.harm(store.reads, Fault(401))
        assert call(f"{store.root}/a.bin") == content
        assert not store.untouched
    with pytest.raises(FileNotFoundError, match=f"{store.root}/none: no such object"):
        read_slowly(f"{store.root}/none")
    store.harm(".*", *[Fault(403)] * MANY)
    for call in (read_slowly, read_near):
        with pytest.raises(UserError, match="access to .* denied"):
            call(f"{store.root}/other.bin")


def read_slowly(path):
    with files.open_read(path) as file:
        return file.read()


def read_near(path):
    with local_copies.open_near(path) as file:
        return file.read()


@pytest.mark.slow
@each("http", "s3")
def test_a_break_after_a_long_time_is_repeated_too(store, monkeypatch):
    monkeypatch.setattr(stores, "TRIES_S", 0.2)
    store.put("a.bin", bytes(300_000))
    store.harm(store.reads, Fault(pause_s=0.05, reset_after=200_000))
    assert files.read_bytes(f"{store.root}/a.bin") == bytes(300_000)


# --- What doesn't --------------------------------------------------------------------


@each(*WRITABLE)
def test_no_bucket_and_no_object_are_told_apart(store):
    nowhere = f"{store.root[:5]}nowhere"
    store.put("a", b"a")
    calls = (files.read_bytes, files.size_of, files.exists, files.updated)
    for call in (*calls, files.list_below, files.list_files):
        with pytest.raises(UserError, match=f"{nowhere}/a: no bucket {nowhere}"):
            call(f"{nowhere}/a")
    with pytest.raises(UserError, match=f"{nowhere}/a: no bucket {nowhere}"):
        files.write_bytes(f"{nowhere}/a", b"a")
    with pytest.raises(FileNotFoundError, match=f"{store.root}/b: no such object"):
        files.read_bytes(f"{store.root}/b")


REFUSALS = {
    401: "not logged in, or expired: ",
    403: "access to {} denied: the account wants the right",
    400: "refused with 400",
}


@each(*ALL)
@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_is_one_line(store, status, caplog):
    store.put("a.bin", b"a")
    store.harm(".*", *[Fault(status, "strange")] * MANY)
    words = REFUSALS[status].format(stores.bucket_of(store.root))
    calls = [files.read_bytes, files.exists, files.list_below, files.size_of]
    if not isinstance(store, loopback.WebStore):
        calls.append(lambda path: files.write_bytes(path, b"b"))
    for call in calls:
        with pytest.raises(UserError) as told:
            call(f"{store.root}/a.bin")
        line = str(told.value)
        assert line.startswith(f"{store.root}/a.bin: {words}") and "\n" not in line
        assert told.value.exit_code == 2
        assert not caplog.text  # as clients do of what they raise
    store.heal()
    assert store.names() == ["a.bin"]


@pytest.mark.slow
@each("s3", "http")
def test_a_store_that_gives_no_good_answer_is_one_line(store, monkeypatch):
    monkeypatch.setattr(stores, "TRIES_S", 3.0)
    store.put("a.bin", b"a")
    store.harm(".*", *[Fault(503)] * MANY)
    with pytest.raises(UserError, match="no good answer after several tries") as told:
        files.read_bytes(f"{store.root}/a.bin")
    assert told.value.exit_code == stores.TRY_LATER


@pytest.mark.slow
@each(*ALL)
def test_a_host_that_is_not_there_is_one_line(store, monkeypatch):
    monkeypatch.setattr(stores, "TRIES_S", 3.0)
    path = f"{store.root}/a.bin"
    store.close()
    with pytest.raises(UserError, match="no good answer after several tries") as told:
        files.read_bytes(path)
    assert told.value.exit_code == stores.TRY_LATER


@each("s3")
@pytest.mark.parametrize(
    "name, value, words",
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:1", "refused: Invalid endpoint"),
        ("AWS_PROFILE", "nosuch", "refused: "),
        ("AWS_ACCESS_KEY_ID", "", "not logged in, or expired: `aws configure`"),
    ],
)
def test_settings_that_cannot_be_are_one_line(store, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    stores.forget()
    with pytest.raises(UserError) as told:
        files.read_bytes(f"{store.root}/a")
    line = str(told.value)
    assert line.startswith(f"{store.root}/a: {words}") and "\n" not in line


@each("s3")
def test_what_this_machines_disk_says_is_told_of_it(store, tmp_path):
    store.put("a", b"a")
    with pytest.raises(FileNotFoundError) as told:
        stores.fetch(f"{store.root}/a", str(tmp_path / "none/a"))
    assert told.value.filename == str(tmp_path / "none/a")
    with pytest.raises(FileNotFoundError) as told:
        stores.put(str(tmp_path / "none"), f"{store.root}/b")
    assert told.value.filename == str(tmp_path / "none")


@each("gs", "s3", "az")
def test_a_child_of_this_process_has_clients_of_its_own(store):
    store.put("a", b"a")
    assert files.exists(f"{store.root}/a")
    child = os.fork()
    if not child:
        os._exit(0 if files.read_bytes(f"{store.root}/a") == b"a" else 1)
    assert os.waitpid(child, 0)[1] == 0


@each("s3")
def test_an_object_that_changes_while_it_is_fetched_is_not_a_mixture(store, tmp_path):
    old, new = bytes(60 << 20), b"n" * (60 << 20)  # in parts, it would be 50 MB and 10
    store.put("large", old)
    tamper, seen = store.tamper, []

    def change(path, body):
        if "large" in path and not seen:
            seen.append(path)
        elif "large" in path and len(seen) == 1:
            seen.append(path)
            store.put("large", new)
        return tamper(path, body)

    store.tamper = change
    files.copy(f"{store.root}/large", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() in (old, new)


def test_addresses_that_cannot_be_are_one_line():
    for path, words in (
        ("gs://", "gs://: write gs://BUCKET/FOLDER"),
        ("s3:///a", "write s3://BUCKET/FOLDER"),
        ("az://c@account.blob.core.windows.net/a", "write az://CONTAINER/FOLDER"),
    ):
        with pytest.raises(UserError, match=words):
            files.read_bytes(path)


def test_other_schemes_are_one_line():
    for path in ("s4://b/a", "hdfs://b/c/a", "file://b/a"):
        with pytest.raises(UserError, match="no file system for .*; there are gs://"):
            files.exists(path)
    with stores.explained("gs://b/a"), pytest.raises(KeyError):
        raise KeyError  # is nothing of a store's


def test_what_may_pass_has_an_exit_code_of_its_own():
    """deploy/kubernetes.yaml starts again what ends so, and not what ends with 2."""
    for status, code in ((503, 75), (429, 75), (403, 2), (401, 2)):
        line = f"gs://b/a: {stores.reason_of(status, 'gs://b/a')}"
        assert stores.store_error(line).exit_code == code


# --- Copies near by ------------------------------------------------------------------


@each(*ALL)
def test_a_stack_is_fetched_once_for_all_its_pages(store, tmp_path, monkeypatch):
    stack = np.random.default_rng(1).integers(0, 255, (12, 64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack)
    store.put("stack.tif", (tmp_path / "stack.tif").read_bytes())
    path = f"{store.root}/stack.tif"
    assert count_pages(path) == 12
    for number in range(12):
        image = read_image(Page(path, number), 1)
        np.testing.assert_array_equal(np.squeeze(image), stack[number])
    seen = [f"{request.method} {request.path}" for request in store.seen]
    assert len([one for one in seen if re.match(store.reads, one)]) == 1
    tifffile.imwrite(tmp_path / "stack.tif", stack[::-1])
    store.put("stack.tif", (tmp_path / "stack.tif").read_bytes())
    if isinstance(store, loopback.WebStore):  # which tells the second of a change
        later = time.time() + 60
        os.utime(store.folder / loopback.BUCKET / "stack.tif", (later, later))
    monkeypatch.setattr(local_copies, "TRUSTED_S", 0.0)  # a minute later
    image = read_image(Page(path, 0), 1)
    np.testing.assert_array_equal(np.squeeze(image), stack[-1])


STOPPED = """
import contextlib, os, signal, sys, threading
from unet_tfrecords.command import cli, signals
from unet_tfrecords.storage import local_copies as near

def fetch():
    with contextlib.suppress(Exception):  # its folder goes at the end
        near.open_near(sys.argv[2])

def run(values, rest):
    threading.Thread(target=fetch, daemon=True).start()
    with near.open_near(sys.argv[1]) as file:
        assert file.read() == b"abc"
    while sum(len(names) for _, _, names in os.walk(os.environ["TMPDIR"])) < 2:
        pass
    os.kill(os.getpid(), int(sys.argv[3]))
    signal.pause()

command = cli.Command("wait", "", (), run)
signals.leave(cli.main(command._replace(takes_arguments=True)))
"""


@pytest.mark.slow
@each(*ALL)
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_leaves_no_copies(store, tmp_path, number, code):
    """Neither one that is kept, nor one on its way."""
    store.put("a.bin", b"abc")
    store.put("slow.bin", bytes(2**20))
    store.harm("slow", *[Fault(pause_s=0.5)] * MANY)
    (tmp_path / "tmp").mkdir()
    arguments = [f"{store.root}/{name}" for name in ("a.bin", "slow.bin")]
    own = {**store.environment, "TMPDIR": str(tmp_path / "tmp")}
    done = process(
        PYTHON, "-c", STOPPED, *arguments, str(int(number)), env=own, timeout=60
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert os.listdir(tmp_path / "tmp") == []
