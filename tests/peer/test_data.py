"""The corpus: what is held out, which bytes a batch reads, and what is said about a bad one."""

import sysconfig
from pathlib import Path

import pytest
import torch

from peer import data
from peer.data import PYTHON_STDLIB, Corpus
from protocol.errors import InputError
from protocol.manifest import Data, Manifest, Model

CONTEXT = 32


def manifest_of(source: Path | str, **fields: float) -> Manifest:
    return Manifest(
        model=Model(depth=2, context=CONTEXT),
        data=Data(corpus=str(source), batch_sequences=4, **fields),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two hundred files; each repeats its own number, so that a window tells where it is from."""
    root = tmp_path / "corpus"
    for number in range(200):
        path = root / f"{number % 7}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<{number}>" * 60)
    return root


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return Corpus.load(manifest_of(folder, heldout_percent=10))


def numbers(text: data.Bytes) -> set[str]:
    """Those of the files that the text was put together from."""
    return set(text.tobytes().decode().strip("<>").split("><"))


def test_heldout_files_are_whole_and_disjoint_from_training(corpus: Corpus) -> None:
    training, heldout = numbers(corpus.training), numbers(corpus.heldout)
    assert not training & heldout
    assert training | heldout == {str(number) for number in range(200)}
    assert 8 <= len(heldout) <= 40


def test_what_is_held_out_depends_on_the_relative_path_alone(
    corpus: Corpus, folder: Path, tmp_path: Path
) -> None:
    elsewhere = folder.rename(tmp_path / "somewhere-else")
    gone = next(iter(numbers(corpus.training)))
    (elsewhere / f"{int(gone) % 7}" / f"{gone}.txt").unlink()
    moved = Corpus.load(manifest_of("/not/here", heldout_percent=10), str(elsewhere))
    assert moved.heldout_digest == corpus.heldout_digest
    assert numbers(moved.training) == numbers(corpus.training) - {gone}


def test_another_heldout_text_has_another_digest(corpus: Corpus, folder: Path) -> None:
    number = next(iter(numbers(corpus.heldout)))
    (folder / f"{int(number) % 7}" / f"{number}.txt").write_text("changed" * 60)
    changed = Corpus.load(manifest_of(folder, heldout_percent=10))
    assert changed.heldout_digest != corpus.heldout_digest


def test_batch_is_a_pure_function_of_seed_peer_and_cursor(corpus: Corpus) -> None:
    first = corpus.batch(1, "ann", 1000)
    corpus.batch(1, "ann", 7)
    again = corpus.batch(1, "ann", 1000)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = [corpus.batch(2, "ann", 1000), corpus.batch(1, "bob", 1000)]
    others += [corpus.batch(1, "ann", 1001), corpus.batch(1, "ann", 2**62)]
    for inputs, _ in others:
        assert not torch.equal(first[0], inputs)


def test_batches_are_those_of_every_machine(folder: Path) -> None:
    """Pinned: numpy's raw Philox numbers, which it promises to keep."""
    corpus = Corpus.load(manifest_of(folder, heldout_percent=10))
    inputs, _ = corpus.batch(1, "ann", 3)
    assert bytes(inputs[0, :12].tolist()) == b"><22><22><22"


def test_targets_are_the_next_tokens(corpus: Corpus) -> None:
    inputs, targets = corpus.batch(1, "ann", 0)
    assert inputs.shape == targets.shape == (4, CONTEXT)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    for row in torch.cat([inputs, targets[:, -1:]], dim=1):
        assert bytes(row.tolist()) in corpus.training.tobytes()


def test_all_of_the_training_text_is_read(tmp_path: Path) -> None:
    """The first and the last byte included."""
    ends = Corpus.load(manifest_of(_one_file(tmp_path, 3 * data.BLOCK_BYTES), heldout_percent=49))
    short = Corpus(ends.training[: CONTEXT + 3], ends.heldout, batch_sequences=4, context=CONTEXT)
    windows = {bytes(row.tolist()) for cursor in range(20) for row in short.batch(1, "", cursor)[0]}
    text = short.training.tobytes()
    assert windows == {text[start : start + CONTEXT] for start in range(3)}


def test_heldout_batches_are_the_same_everywhere_and_span_the_text(corpus: Corpus) -> None:
    batches = list(corpus.heldout_batches(5))
    again = list(corpus.heldout_batches(5))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, again, strict=True))
    assert {inputs.shape for inputs, _ in batches} == {(4, CONTEXT)}
    text = corpus.heldout.tobytes()
    assert bytes(batches[0][0][0].tolist()) == text[:CONTEXT]
    assert bytes(batches[-1][1][-1].tolist()) == text[-CONTEXT:]


def _one_file(tmp_path: Path, size_bytes: int) -> Path:
    path = tmp_path / "one.txt"
    path.write_bytes(bytes(97 + (i * i // 7 + i // 1000) % 26 for i in range(size_bytes)))
    return path


def test_single_file_is_held_out_in_blocks(tmp_path: Path) -> None:
    path = _one_file(tmp_path, 20 * data.BLOCK_BYTES + 5)
    corpus = Corpus.load(manifest_of(path, heldout_percent=20))
    assert corpus.training.size + corpus.heldout.size == path.stat().st_size
    blocks = {bytes(corpus.heldout[i : i + 9]) for i in range(0, corpus.heldout.size, 65536)}
    whole = path.read_bytes()
    assert blocks <= {whole[i : i + 9] for i in range(0, len(whole), 65536)}


def test_python_stdlib_is_its_sources_and_nothing_installed() -> None:
    names = data._names(Path(sysconfig.get_path("stdlib")), python_only=True)
    assert names == sorted(names)
    assert "json/decoder.py" in names
    assert all(name.endswith(".py") for name in names)
    assert not any("-packages/" in name for name in names)
    corpus = Corpus.load(manifest_of(PYTHON_STDLIB))
    assert corpus.heldout.size > 64 * 1024


def test_hidden_files_are_left_out(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_text("x" * 100)
    (folder / ".hidden").write_text("x" * 100)
    assert len(data._names(folder, python_only=False)) == 200


def refusal(source: Path, **fields: float) -> str:
    with pytest.raises(InputError) as caught:
        Corpus.load(manifest_of(source, **fields))
    message = str(caught.value)
    assert "\n" not in message and str(source) in message
    return message


def test_missing_corpus_is_refused(tmp_path: Path) -> None:
    assert "correct the path" in refusal(tmp_path / "nowhere")


def test_empty_and_small_corpora_are_refused(tmp_path: Path) -> None:
    assert "name a larger one" in refusal(tmp_path)
    (tmp_path / "a.txt").write_text("too little")
    assert "10 bytes" in refusal(tmp_path)
    assert "10 bytes" in refusal(tmp_path / "a.txt")


def test_corpus_without_heldout_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 10_000)
    assert "raise data.heldout_percent" in refusal(tmp_path, heldout_percent=0.001)


def test_unreadable_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a patched open, since root may read everything."""

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied; make it readable" in refusal(folder)
    assert "Permission denied; make it readable" in refusal(folder / "0" / "0.txt")


def test_too_large_corpus_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_CORPUS_BYTES", 5000)
    assert "name a smaller part" in refusal(folder)
    (folder / "large").write_text("x" * 5001)
    assert "name a smaller part" in refusal(folder / "large")
    monkeypatch.setattr(data, "MAX_CORPUS_FILES", 100)
    assert "more than 100 files" in refusal(folder)
