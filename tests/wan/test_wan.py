"""The parts of the comparison that measure and judge, on material whose answer is known."""

import json
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.wan.cell import Cell, check_of, interpolated, measure, steady_part, trained
from benchmarks.wan.ddp import DDP
from benchmarks.wan.diary import Diary, samples
from benchmarks.wan.hivemind import Hivemind, read_8_bit
from benchmarks.wan.keys import peer_ids_of
from benchmarks.wan.lab import Lab
from benchmarks.wan.loss import Curve, Judge
from benchmarks.wan.manifests import LOSS, TRAFFIC, without_rounds
from benchmarks.wan.namespaces import run, unavailable
from benchmarks.wan.ours import EmulatedInner, Ours, TimedInner
from benchmarks.wan.report import draw_losses, draw_traffic, json_of, remarks, table_of
from benchmarks.wan.rows import COUNTED_STEPS, Row, best_of, row_of
from benchmarks.wan.sampler import Traffic
from benchmarks.wan.system import HOSTS, PEERS, System, Task
from benchmarks.wan.torchft import Torchft, bucket_mb, fragments_of
from benchmarks.wan.work import SLICES, STEP_S, Accelerator, EmulatedBackward, Training
from peer.data import Corpus
from peer.metrics import METRICS_FILE
from peer.model import build_model, tensor_specs
from protocol.manifest import Manifest

SMALL_TEXT = TRAFFIC.replace("depth = 8", "depth = 4").replace("320", "64")
SMALL = Manifest.from_toml(SMALL_TEXT)

needs_lab = pytest.mark.skipif(
    unavailable() is not None, reason=f"skipped, because {unavailable()}"
)


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """Emulated steps end at once; how long each would have taken."""
    lengths_s: list[float] = []
    monkeypatch.setattr(
        "benchmarks.wan.work.sleep_until",
        lambda end_s: lengths_s.append(end_s - time.monotonic()),
    )
    return lengths_s


def test_an_emulated_step_takes_its_time_and_every_parameter_gets_its_turn(naps):
    model = build_model(SMALL)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    accelerator = Accelerator(model.parameters(), number=0)
    for _ in range(SLICES):
        accelerator.step()
    moved = [(b - p.detach()) for b, p in zip(before, model.parameters(), strict=True)]
    wanted = accelerator.directions
    for have, want in zip(moved, wanted, strict=True):
        # 16 slices, each moved once, 16 times as far.
        torch.testing.assert_close(have.view(-1), want * 1e-4 * SLICES, rtol=1e-3, atol=1e-6)
    assert len(naps) == SLICES and all(0 < nap_s <= STEP_S for nap_s in naps)


def test_peers_move_in_part_alike():
    model = build_model(SMALL)
    ways = [torch.cat(Accelerator(model.parameters(), n).directions) for n in range(2)]
    alike = torch.corrcoef(torch.stack(ways))[0, 1].item()
    assert 0.4 < alike < 0.6


def test_emulated_gradients_come_out_of_a_backward_pass_that_takes_a_step(naps):
    module = EmulatedBackward(build_model(SMALL), number=1)
    module().backward()
    for parameter, gradient in zip(module.model.parameters(), module.gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert sum(naps) == pytest.approx(STEP_S, rel=0.2)
    before = module.model.head.weight.detach().clone()
    module.apply_gradients()
    assert (
        not torch.equal(before, module.model.head.weight) and module.model.head.weight.grad is None
    )


def test_our_peers_have_the_accelerator_where_their_adamw_is(naps):
    model = build_model(SMALL)
    before = torch.cat([p.detach().view(-1) for p in model.parameters()])
    inner = EmulatedInner(SMALL, model, number=0)
    nothing = torch.zeros(1, 8, dtype=torch.int64)
    assert np.isnan(inner.step(0, nothing, nothing))
    assert inner.save() == {}
    after = torch.cat([p.detach().view(-1) for p in model.parameters()])
    moved = (before != after).float().mean().item()
    assert moved == pytest.approx(1 / SLICES, rel=0.05) and len(naps) == 1


def test_a_real_step_waits_before_it_moves_and_is_the_same_in_ours_and_in_rivals(monkeypatch):
    manifest = Manifest.from_toml(LOSS.format(seed=1))
    (name, *_) = peer_ids_of(manifest.seed)
    rival = Training(manifest, number=0, batches_of=name, emulated=False)
    ours = build_model(manifest)
    before = ours.head.weight.detach().clone()
    waited_s: list[float] = []

    def wait(end_s: float) -> None:
        waited_s.append(end_s - time.monotonic())
        for model in (rival.model, ours)[len(waited_s) - 1 :]:
            assert torch.equal(before, model.head.weight)

    monkeypatch.setattr("benchmarks.wan.work.sleep_until", wait)
    monkeypatch.setattr("benchmarks.wan.ours.sleep_until", wait)
    rival.step()
    TimedInner(manifest, ours).step(0, *Corpus.load(manifest).batch(manifest.seed, name, cursor=0))
    assert len(waited_s) == 2 and all(wait_s < STEP_S for wait_s in waited_s)
    assert rival.steps == 1 and all(p.grad is None for p in rival.model.parameters())
    assert not torch.equal(before, ours.head.weight)
    for theirs, own in zip(rival.model.parameters(), ours.parameters(), strict=True):
        assert torch.equal(theirs, own)


def test_the_keys_of_a_run_are_four_and_those_of_another_seed_are_others():
    assert len({*peer_ids_of(1), *peer_ids_of(2)}) == 2 * PEERS


def test_without_rounds_the_first_averaging_is_far_away():
    manifest = Manifest.from_toml(without_rounds(TRAFFIC))
    assert manifest.schedule.step_of(0) > 1_000_000
    assert manifest.model == Manifest.from_toml(TRAFFIC).model


def test_a_diary_has_the_steps_the_averagings_and_samples_of_the_first_ones(tmp_path):
    diary = Diary(tmp_path, keeps_snapshots=True)
    diary.stepped(1)
    for number in range(6):
        diary.sends([torch.full((100,), float(number))])
        diary.receives([torch.full((100,), number + 0.5)])
        diary.synced(10 * (number + 1), peers=4)
        diary.keep(10 * (number + 1), [("head", torch.ones(2))])
    diary.failed(70, "no quorum")
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds.count("sync") == 6 and kinds.count("check") == 4 and kinds.count("failed") == 1
    check = next(line for line in lines if line["kind"] == "check" and line["number"] == 1)
    assert set(check["sent"]) == {1.0} and set(check["mean"]) == {1.5}
    (kept,) = (tmp_path / "snapshots").glob("*.npz")  # the next one was due seconds later
    assert kept.name.startswith("10-")


def test_samples_are_the_same_places_of_every_tensor_each_time():
    tensors = [torch.arange(1000.0), torch.arange(3.0)]
    assert samples(tensors) == samples(tensors)
    assert samples(tensors)[:2] == [0.0, 31.0] and samples(tensors)[-3:] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("syncs", "cycle", "steady"),
    [
        ([], 1, None),
        ([9.0], 1, (2.0, 9.0)),
        ([9.0, 11.0], 1, (9.0, 11.0)),
        ([9.0, 11.0, 14.0], 1, (11.0, 14.0)),
        ([9.0, 11.0, 14.0], 2, (9.0, 14.0)),
        # Eight averagings of three fragments: the first cycle and what is not a whole one go.
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 3, (4.0, 7.0)),
    ],
)
def test_the_steady_part_is_whole_cycles_without_the_first(syncs, cycle, steady):
    assert steady_part(2.0, syncs, cycle) == steady


def test_steps_between_two_lines_are_on_a_straight_line():
    lines = [(10.0, 20.0), (20.0, 60.0)]
    assert interpolated(0.0, lines, 5.0) == 10.0
    assert interpolated(0.0, lines, 15.0) == 40.0


def checks(sent: list[list[float]], mean: list[list[float]]) -> list[dict]:
    return [{0: {"sent": s, "mean": m}} for s, m in zip(sent, mean, strict=True)]


def test_a_mean_is_right_when_it_is_the_mean_and_equal_on_all_peers():
    right = check_of(checks([[1.0, 4.0], [3.0, 8.0]], [[2.0, 6.0], [2.0, 6.0]]))
    assert (right.averagings, right.error, right.spread) == (1, 0.0, 0.0)
    unequal = check_of(checks([[1.0, 4.0], [3.0, 8.0]], [[2.0, 6.0], [2.0, 6.5]]))
    assert unequal.spread > 0.1 and unequal.error > 0.05
    wrong = check_of(checks([[1.0, 4.0], [3.0, 8.0]], [[1.0, 6.0], [1.0, 6.0]]))
    assert wrong.spread == 0.0 and wrong.error > 0.1
    assert check_of([{}, {}]) is None


def cell_of(system=Ours, rate_mbit: float = 10.0) -> Cell:
    """100 s of peers that do 10 steps/s, average every 5 s, and send 8 mbit, in one 100 ms 16."""
    times_s = np.arange(0.0, 100.05, 0.1)
    rates_bytes = np.full(len(times_s), 1e5)
    rates_bytes[500] = 2e5
    sent = np.cumsum(rates_bytes)
    totals = np.repeat(np.stack([sent, sent], axis=1)[:, None, :], PEERS, axis=1)
    setting = system.settings[0]
    task = Task(manifest=TRAFFIC, emulated=True, setting=setting, rate_mbit=rate_mbit)
    return Cell(
        system=system,
        task=task,
        began_s=0.0,
        lasted_s=100.0,
        traffic=Traffic(times_s, totals),
        steps=[[(float(t), 10.0 * t) for t in range(1, 101)]] * PEERS,
        syncs=[float(t) for t in range(10, 101, 5)],
        cycle=4 if system.streams else 1,
        least_peers=4,
        check=check_of(checks([[1.0]] * 4, [[1.0]] * 4)),
    )


def test_a_row_has_what_was_measured_over_the_steady_part():
    row = row_of(cell_of(), "1.0", alone_steps_per_s=10.5, rtt_s=0.04)
    assert row.utilization == pytest.approx(10 / 10.5)
    assert row.steady_s == 60.0  # from 30 to 90: three cycles of four averagings
    assert row.sync_every_in_effect == pytest.approx(200)
    assert row.mean_mbit == pytest.approx(8.0, rel=0.01)
    assert row.peak_mbit == pytest.approx(16.0, rel=0.05)
    assert row.peak_over_mean == pytest.approx(2.0, rel=0.05)
    assert row.bytes_per_peer == pytest.approx(1e6 / 10 * COUNTED_STEPS, rel=0.01)
    assert row.bytes_per_token == pytest.approx(1e5 / 2048, rel=0.01)
    assert row.tokens_per_s == pytest.approx(4 * 10 * 2048)
    assert row.is_average_right and row.averaging_error == 0.0
    assert 0.9 < row.planned_utilization <= 1.0
    assert row.planned_bytes_per_peer == pytest.approx(81e6, rel=0.03)


def test_a_row_of_a_rival_has_no_plan_and_one_that_failed_says_why():
    assert row_of(cell_of(DDP), "2", alone_steps_per_s=10).planned_utilization is None
    failed = Cell(system=DDP, task=cell_of(DDP).task, failure="peer0 ended with 1\nTraceback")
    row = row_of(failed, "2", alone_steps_per_s=10)
    assert row.reached == "failed: peer0 ended with 1" and row.utilization is None


def test_a_wrong_average_is_said_in_its_row():
    cell = cell_of(DDP)
    cell.check = check_of(checks([[1.0]] * 4, [[1.0], [1.0], [1.0], [0.9]]))
    row = row_of(cell, "2")
    assert row.is_average_right is False and row.averaging_spread == pytest.approx(0.1)


def test_the_better_setting_is_the_one_that_trains_more():
    slow, fast = (
        Row(system="DDP", setting=s, version="", rate_mbit=50, emulated=True, utilization=u)
        for s, u in (("fp32", 0.01), ("bf16", 0.02))
    )
    failed = Row(system="DDP", setting="x", version="", rate_mbit=50, emulated=True)
    assert best_of([failed, slow, fast]) is fast


def test_time_to_a_loss_is_where_the_curve_crosses_it():
    curve = Curve([1.0, 3.0, 5.0], [10, 30, 50], [3.0, 2.0, 1.5])
    assert curve.when(2.5) == (2.0, 20.0)
    assert curve.when(3.5) == (1.0, 10)
    assert curve.when(1.0) is None
    assert curve.at_step(40) == 1.75 and curve.at_step(60) is None


def test_a_judge_gives_every_kept_model_its_heldout_loss():
    manifest = Manifest.from_toml(LOSS.format(seed=1))
    state = {name: p.detach().numpy() for name, p in build_model(manifest).named_parameters()}
    curve = Judge(manifest).curve(100.0, [(101.5, 7, state)])
    assert curve.times_s == [1.5] and curve.steps == [7]
    assert curve.losses[0] == pytest.approx(np.log(256), rel=0.05)


def test_the_json_has_the_promised_fields_and_null_where_nothing_was_measured():
    rows = [row_of(cell_of(), "1.0", alone_steps_per_s=10.0, rtt_s=0.04)]
    line = json.dumps(json_of(rows, target_loss=None))
    (row,) = json.loads(line)["rows"]
    promised = "system version rate_mbit emulated utilization bytes_per_peer bytes_per_token"
    promised += " peak_mbit mean_mbit peak_over_mean time_to_loss_s loss_at_limit reached"
    promised += " planned_utilization planned_bytes_per_peer"
    assert set(promised.split()) <= set(row)
    assert row["system"] == "diloco-peer" and row["time_to_loss_s"] is None


def test_the_table_and_the_remarks_have_a_line_for_each_row(capsys):
    rows = [row_of(cell_of(system), "1.0") for system in (Ours, Torchft, Hivemind, DDP)]
    Console(width=160).print(table_of(rows))
    out = capsys.readouterr().out
    assert all(name in out for name in ("diloco-peer", "torchft", "hivemind", "DDP"))
    said = "\n".join(remarks(rows))
    assert "19 averagings in 100 s" in said and "needs Triton" in said


def test_the_pictures_are_drawn(tmp_path):
    draw_traffic(
        {("diloco-peer", 10.0): cell_of(), ("DDP", 50.0): cell_of(DDP)}, tmp_path / "t.png"
    )
    curve = Curve([1.0, 3.0], [10, 30], [3.0, 2.0])
    draw_losses({("DDP", 10.0): curve}, 2.5, tmp_path / "l.png")
    assert (tmp_path / "t.png").stat().st_size > 1000 and (tmp_path / "l.png").stat().st_size > 1000


def test_torchfts_fragments_are_the_manifests_and_its_bucket_holds_the_largest():
    model = build_model(SMALL)
    fragments = fragments_of(SMALL, model)
    assert sum(p.numel() for f in fragments for p in f.parameters()) == sum(
        spec.values for spec in tensor_specs(model)
    )
    assert bucket_mb(fragments) * 2**20 >= 4 * max(
        f.values for f in SMALL.fragments(tensor_specs(model))
    )


def test_hivemind_reads_its_8_bit_tensors():
    from hivemind.compression import Uniform8BitQuantization
    from hivemind.compression.base import CompressionInfo

    read_8_bit()
    values = torch.randn(1000)
    code = Uniform8BitQuantization()
    sent = code.compress(values, CompressionInfo.from_tensor(values))
    assert (code.extract(sent) - values).abs().mean() < 0.05


def emulated_cell(system: type[System], manifest: str, steps: int) -> Cell:
    """Real processes on links without limits; none of them is left behind."""
    task = Task(manifest=manifest, emulated=True, setting=system.settings[0], rate_mbit=None)
    with Lab(HOSTS) as lab:
        cell = measure(system, task, lab, limit_s=100.0, is_enough=trained(steps))
        hosts = (lab.namespace(host) for host in range(lab.hosts))
        assert not [pid for host in hosts for pid in run("ip", "netns", "pids", host).split()]
    assert cell.failure == ""
    return cell


@needs_lab
def test_a_cell_of_data_parallel_averages_every_step_and_sends_what_a_ring_sends():
    cell = emulated_cell(DDP, SMALL_TEXT, steps=20)
    row = row_of(cell, "1.0", alone_steps_per_s=1 / STEP_S)
    assert len(cell.syncs) >= 20 and cell.least_peers == PEERS
    assert row.is_average_right and 0 < row.utilization < 1.05
    # 2 x 3/4 of 4 bytes of each gradient; the rest is headers.
    values = sum(f.values for f in SMALL.fragments(tensor_specs(build_model(SMALL))))
    assert row.bytes_per_token * SMALL.tokens_per_step == pytest.approx(6 * values, rel=0.15)


@needs_lab
def test_a_cell_of_our_own_peers_goes_through_real_rounds():
    often = SMALL_TEXT.replace("sync_every = 100", "sync_every = 40")
    cell = emulated_cell(Ours, often, steps=160)
    row = row_of(cell, "1.0", alone_steps_per_s=1 / STEP_S)
    assert len(cell.syncs) > 4 and cell.least_peers == PEERS and cell.failures == 0
    assert row.averagings_checked and row.is_average_right and row.averaging_spread == 0.0
    assert row.sync_every_in_effect > 35 and 0 < row.utilization < 1.05
