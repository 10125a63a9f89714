"""What `python -m benchmarks.byzantine` measures with: short runs of the same ten peers."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from benchmarks.attacks import ATTACKS, FLIPPED, Attack, LyingCorpus, LyingReplica
from benchmarks.byzantine import (
    ATTACKERS,
    JUDGED,
    PEERS,
    QUICK_RULES,
    RULES,
    SEEDS,
    Cell,
    Findings,
    Run,
    corpus,
    plan,
    table_of,
    train,
)
from peer.replica import Replica
from protocol.outer import pseudo_gradient

STEPS = 30
short_run = cache(train)
CLEAN = Cell(steps=STEPS)
LOUD = Cell(attack="sign flip x10", attackers=3, steps=STEPS)


def attacker(name: str, attackers: int = 3) -> Attack:
    return ATTACKS[name](np.random.default_rng(1), attackers, PEERS)


def moved(replica: Replica, seed: int) -> np.ndarray:
    """Local parameters of the first fragment after some movement."""
    start = replica.global_params[0]
    return start + np.random.default_rng(seed).normal(0, 0.01, start.size).astype(np.float32)


def honest_peers(count: int) -> list[Replica]:
    """Each has moved in its own way."""
    replicas = [Replica(CLEAN.manifest(), torch.device("cpu")) for _ in range(count)]
    for seed, replica in enumerate(replicas):
        rest = [replica.local_params(fragment.fragment_id) for fragment in replica.fragments[1:]]
        replica.begin_at(replica.states, [moved(replica, seed), *rest])
    return replicas


def test_ten_peers_train_in_one_process_and_always_the_same_way():
    run = short_run(CLEAN)
    # Nothing is left for the last of the rounds that drain: what it had was sent just before.
    assert (run.rounds, run.empty_rounds) == (4, 1)
    assert run.loss < 4.0
    assert train(CLEAN).loss == run.loss


def test_three_loud_liars_ruin_a_mean_and_hardly_a_robust_rule():
    clean = short_run(CLEAN).loss
    assert short_run(LOUD).loss > 1.2 * clean
    assert short_run(replace(LOUD, rule="trimmed_mean")).loss < 1.1 * clean


def test_all_but_a_false_owner_contribute_another_thing_than_they_trained():
    manifest = CLEAN.manifest()
    honest = honest_peers(2)
    for name in ATTACKS:
        attack = attacker(name)
        attack.honest = honest
        replica = LyingReplica(manifest, torch.device("cpu"), attack)
        told = [replica.encode(0, moved(replica, seed)) for seed in (2, 3)]
        truth = [Replica.encode(honest[0], 0, moved(replica, seed)) for seed in (2, 3)]
        assert [len(part) for part in told[1]] == [len(part) for part in truth[1]]
        assert (told[1] == truth[1]) == (name in ("false owner", "flipped labels")), name


def test_a_false_owner_turns_its_averages_around():
    manifest = CLEAN.manifest()
    replica = LyingReplica(manifest, torch.device("cpu"), attacker("false owner"))
    said = manifest.codec.encode(np.array([1, -2, 0], dtype=np.float32))
    average = manifest.codec.decode(replica.average([said] * 3, [1] * 3, 3), 3)
    assert average.tolist() == [-1, 2, 0]


def test_what_a_little_is():
    attack = attacker("a little")
    attack.honest = honest_peers(7)
    told = [pseudo_gradient(r.global_params[0], r.local_params(0)) for r in attack.honest]
    # Three of seven honest are to be further out: z with a share of 4 / 7 below it.
    lie = np.mean(told, axis=0) - 0.18001 * np.std(told, axis=0)
    assert attack.contribution(0, told[0]) == pytest.approx(lie, abs=1e-6)
    assert attacker("a little", attackers=1).z == 0


def test_flipped_labels_are_a_permutation_of_the_targets():
    attack = attacker("flipped labels")
    lying = LyingCorpus.of(corpus(), attack)
    inputs, targets = corpus().batch(1, "a", 0)
    lied_inputs, lied_targets = lying.batch(1, "a", 0)
    assert torch.equal(inputs, lied_inputs) and not torch.equal(targets, lied_targets)
    assert torch.equal(FLIPPED[targets], lied_targets)
    assert sorted(FLIPPED.tolist()) == list(range(256))


def test_the_plan_has_every_attack_under_every_rule_and_three_seeds_where_it_is_judged():
    cells = plan(quick=False)
    assert len(set(cells)) == len(cells)
    for attack in ATTACKS:
        for attackers in ATTACKERS:
            for rule in RULES:
                seeds = {
                    cell.seed
                    for cell in cells
                    if (cell.attack, cell.attackers, cell.rule) == (attack, attackers, rule)
                }
                judged = rule == JUDGED and attackers == 3
                assert seeds == (set(SEEDS) if judged else {SEEDS[0]})
    assert {cell.seed for cell in cells if not cell.attackers and cell.rule == "mean"} == {*SEEDS}
    assert {cell.rule for cell in plan(quick=True)} == set(QUICK_RULES)


def test_a_row_is_compared_with_the_clean_runs_of_its_own_seeds():
    cells = [replace(CLEAN, seed=seed) for seed in SEEDS]
    cells += [replace(LOUD, seed=seed) for seed in SEEDS[:2]] + [replace(LOUD, rule="median")]
    losses = [2.0, 2.2, 9.0, 2.1, 2.31, float("inf")]
    findings = Findings(cells)
    for cell, loss in zip(cells, losses, strict=True):
        findings.add(
            Run(cell=cell, loss=loss, rounds=5, empty_rounds=0, banned_after_rounds=None, cpu_s=1.0)
        )
    clean, loud, broken = findings.rows()
    assert clean.excess == 0 and clean.seeds == 3
    assert (loud.loss, loud.clean_loss, loud.seeds) == (2.205, 2.1, 2)
    assert loud.excess == pytest.approx(0.05)
    assert broken.loss is None and broken.clean_loss == 2.0
    assert findings.clean_losses == [2.0, 2.2, 9.0]
    assert table_of(findings.rows(), "one seed").row_count == 2
