"""Methods with tiers: each tracked feature owns one row, and a move keeps of its vector what the new tier can hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.ranks import COLD, Moves, Ranks, ranks_bytes
from trainer.evaluate.methods.registry import METHODS

FIELD_SIZES = (300, 500, 20)
TIERED = ("cce", "cprec", "low-rank", "mec", "mpe", "mpe-low", "saec", "scma")


@pytest.fixture(autouse=True)
def one_thread():
    """Small steps are faster without threads, and sums do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name, **knobs):
    brief = Brief(budget_bytes=40_000, dim=16, field_sizes=FIELD_SIZES, knobs={**METHODS[name].default, **knobs})
    method = METHODS[name].build(brief)
    assert not isinstance(method, Infeasible)
    return method


def vectors_of(method, ids):
    """Vectors (K, D) of feature numbers of any field."""
    with torch.no_grad():
        return method(torch.tensor(ids)[:, None])[:, 0]


def move(method, ids, tiers, to_tiers, rows=0, to_rows=0):
    """Moves features, as a review would; the map is told, too, so that lookups find them."""
    count = len(ids)
    moved = Moves(
        ids=np.asarray(ids),
        tier=np.full(count, tiers),
        row=np.arange(count) + rows,
        to_tier=np.full(count, to_tiers),
        to_row=np.arange(count) + to_rows,
    )
    method.move(moved)
    ranks = method.ranks
    slots = np.arange(count)
    ranks._slots.put((moved.ids + 1).view(np.uint64), slots.astype(np.int32))  # noqa: SLF001
    ranks._tier[slots], ranks._row[slots] = moved.to_tier, moved.to_row  # noqa: SLF001


def train(method, steps=130, seed=0):
    """Steps towards a target vector of each feature, with a skewed stream that changes once."""
    rng = np.random.default_rng(seed)
    firsts = np.concatenate([[0], np.cumsum(FIELD_SIZES)[:-1]])
    targets = torch.randn(sum(FIELD_SIZES), 16, generator=torch.Generator().manual_seed(1))
    losses = []
    for step in range(steps):
        local = np.floor(np.array(FIELD_SIZES) * rng.random((64, 3)) ** 4).astype(np.int64)
        local = (local + 100 * (step > 60)) % np.array(FIELD_SIZES)
        ids = torch.from_numpy(local + firsts)
        loss = (method(ids) - targets[ids]).square().sum(dim=2).mean()
        loss.backward()
        losses.append(loss.item())
        method.learn()
    return losses


def test_a_tracked_feature_owns_its_row_through_changes_of_the_stream_and_reviews():
    ranks = Ranks((4, 8, 16), seed=0)
    rng = np.random.default_rng(3)
    seen_tiers = set()
    held: dict[int, tuple[int, int]] = {}
    for step in range(300):
        ids = np.unique(np.floor(200 * rng.random(400) ** 3).astype(np.int64) + 50 * (step // 100))
        moves = ranks.update(ids, rng.random(len(ids), np.float32) + np.float32(ids < 30))
        for feature, *state in zip(
            *(one.tolist() for one in (moves.ids, moves.tier, moves.row, moves.to_tier, moves.to_row)), strict=True
        ):
            assert held.pop(feature, None) == (None if state[0] == COLD else (state[0], state[1]))
            if state[2] != COLD:
                held[feature] = (state[2], state[3])
                seen_tiers.add(state[2])
        assert len(set(held.values())) == len(held) == ranks.hot_set.num_hot
        found = ranks.find(np.array(list(held)))
        assert list(zip(*(one.tolist() for one in found), strict=True)) == list(held.values())
        assert all(row < ranks.capacities[tier] for tier, row in held.values())
    assert seen_tiers == {0, 1, 2}
    assert ranks.nbytes <= ranks_bytes(28)


def test_a_review_gives_the_most_important_features_the_best_tier():
    ranks = Ranks((2, 4, 8), seed=0)
    ids = np.arange(40)
    for _ in range(700):
        ranks.update(ids, (1000.0 * 0.7**ids + 1).astype(np.float32))
    tier, _ = ranks.find(ids)
    assert tier[:2].tolist() == [0, 0]
    assert tier[2:6].tolist() == [1] * 4


@pytest.mark.parametrize("name", TIERED)
def test_a_tiered_method_learns_repeats_itself_and_keeps_its_bytes(name):
    row_format = "float32" if name.startswith("mpe") else "int8"  # mpe has formats of its own
    first, again = (make(name, row_format=row_format) for _ in range(2))
    losses = train(first)
    assert losses[:70] == train(again, 70)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert first.ranks.num_promoted > 50
    assert first.nbytes <= 40_000


@pytest.mark.parametrize("name", ["cprec", "low-rank", "mec", "saec"])
def test_a_promotion_changes_no_vector(name):
    method, ids = make(name), [3, 4, 310]
    train(method, steps=20)
    ids = [at for at in range(250, 299) if method.ranks.find(np.array([at]))[0][0] == COLD][:3]
    cold = vectors_of(method, ids)
    for tier, to in ((COLD, 1), (1, 0)):
        move(method, ids, tier, to)
        assert torch.allclose(vectors_of(method, ids), cold, atol=1e-6)


def test_nested_widths_demote_by_a_cut():
    method, ids = make("cprec"), [3, 4, 310]
    train(method, steps=20)
    move(method, ids, COLD, 0)
    method.rows.copy_from(np.arange(3), torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    wide = vectors_of(method, ids)
    for tier, width in ((1, 8), (2, 4)):
        move(method, ids, tier - 1, tier)
        narrow = vectors_of(method, ids)
        assert torch.equal(narrow[:, :width], wide[:, :width])
        assert not narrow[:, width:].any()


def test_a_low_rank_demotion_is_the_nearest_vector_of_the_span():
    method, ids = make("low-rank"), [3, 4, 310]
    move(method, ids, COLD, 0)
    method.rows.copy_from(np.arange(3), torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    wide = vectors_of(method, ids)
    move(method, ids, 0, 1)
    rest = wide - vectors_of(method, ids)
    assert torch.allclose(rest @ method.basis.T, torch.zeros(3, len(method.basis)), atol=1e-5)
    assert rest.norm() > 0.5 * wide.norm()


def test_a_renewed_basis_is_orthonormal_and_keeps_the_vectors_that_lie_in_it():
    method, ids = make("low-rank"), [3, 4, 310]
    train(method, steps=20)
    before = vectors_of(method, ids)
    span = method.basis.clone()
    method._moment.copy_(span.T @ torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])) @ span)  # noqa: SLF001
    is_cold = method.ranks.find(np.array(ids))[0] != 0
    method.renew()
    assert torch.allclose(method.basis @ method.basis.T, torch.eye(len(span)), atol=1e-5)
    assert torch.allclose((method.basis @ span.T).abs(), torch.eye(len(span)), atol=1e-4)
    assert torch.allclose(vectors_of(method, ids)[is_cold], before[is_cold], atol=1e-5)


def test_the_basis_finds_the_directions_that_are_looked_up():
    method = make("low-rank")
    directions = torch.linalg.qr(torch.randn(16, 4, generator=torch.Generator().manual_seed(5))).Q
    method._count(torch.randn(500, 4, generator=torch.Generator().manual_seed(6)) @ directions.T)  # noqa: SLF001
    method.renew()
    assert torch.allclose((method.basis @ directions).norm(dim=1), torch.ones(4), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "tier", "error"), [("mpe", 0, 2**-8), ("mpe", 1, 1 / 127), ("mpe", 2, 1 / 7), ("mpe-low", 2, 2 / 3)]
)
def test_a_change_of_precision_costs_at_most_that_of_the_new_tier(name, tier, error):
    method, ids = make(name), [3, 4, 310]
    cold = vectors_of(method, ids)
    move(method, ids, COLD, tier)
    difference = (vectors_of(method, ids) - cold).abs().amax(dim=1)
    assert (difference <= 1.01 * error * cold.abs().amax(dim=1)).all()
    assert bool(difference.any()) == (tier != 1)  # the cold rows are int8, too


@pytest.mark.parametrize("name", TIERED)
def test_an_infeasible_budget_names_the_bytes_that_suffice(name):
    brief = Brief(budget_bytes=100, dim=16, field_sizes=FIELD_SIZES, knobs=METHODS[name].default)
    refused = METHODS[name].build(brief)
    assert isinstance(refused, Infeasible)
    needed = int(refused.reason.split("need ")[1].split()[0])
    for missing in (0, 1):
        found = METHODS[name].build(Brief(**{**vars(brief), "budget_bytes": needed - missing}))
        assert isinstance(found, Infeasible) == bool(missing)


def test_a_demoted_feature_reads_the_nearest_centroid_of_its_field_which_moves_towards_it():
    method, ids = make("saec"), [3, 4, 310]
    move(method, ids, COLD, 0)
    method.rows.copy_from(np.arange(3), torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    method.ranks.hot_set.sketch.insert(np.array(ids, np.uint64) + np.uint64(1), 5.0)
    method.mass[:] = 5.0
    hot, centroids = vectors_of(method, ids), method.tables[1].gather(np.arange(method.tables[1].padding))
    move(method, ids, 0, 1)
    codes = method.codes[:3]
    coded = vectors_of(method, ids)
    for field, code, vector, after in zip((0, 0, 1), codes, hot, coded, strict=True):
        first, count = method._row_hash.first_rows[field], method._row_hash.rows[field]  # noqa: SLF001
        own = centroids[first : first + count]
        assert code == first + int((own - vector).norm(dim=1).argmin())
        assert (after - vector).norm() < (centroids[code] - vector).norm()
    share = 5.0 / (5.0 * 0.99 + 5.0)  # of the one feature that came; the mass of a centroid ages
    assert torch.allclose(coded[2], centroids[codes[2]] + share * (hot[2] - centroids[codes[2]]), atol=1e-4)


def test_the_codes_of_a_demoted_feature_are_the_nearest_pieces_and_stay_so_when_it_is_quantised_again():
    method, ids = make("mec"), [3, 4, 310]
    move(method, ids, COLD, 0)
    method.rows.copy_from(np.arange(3), torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    method.ranks.hot_set.sketch.insert(np.array(ids, np.uint64) + np.uint64(1), 5.0)
    pieces = method.tables[1].gather(np.arange(method.tables[1].padding)).view(4, -1, 4)
    hot = vectors_of(method, ids)
    move(method, ids, 0, 1)
    for field, codes, vector in zip((0, 0, 1), method.codes[:3], hot, strict=True):
        first, count = method._row_hash.first_rows[field], method._row_hash.rows[field]  # noqa: SLF001
        for part, code in enumerate(codes.tolist()):
            own = pieces[part, first : first + count]
            assert code == first + int((own - vector[4 * part : 4 * part + 4]).norm(dim=1).argmin())
    coded = vectors_of(method, ids)
    assert (coded - hot).norm() < hot.norm()
    again = method.encode(1, coded[2:], np.ones(1, np.float32))
    assert np.array_equal(again[0], method.codes[2])  # the pieces moved towards it, so they are still the nearest
    assert method.mass.sum() > 0


def test_a_popular_feature_moves_the_pieces_that_it_comes_to_further():
    vector = torch.full((1, 16), 0.3)
    moved = []
    for weight in (1.0, 4.0):
        method = make("mec")
        method.mass[:] = 3.0
        before = method.tables[1].gather(np.arange(method.tables[1].padding))
        method.encode(0, vector, np.array([weight], np.float32))
        moved.append(float((method.tables[1].gather(np.arange(method.tables[1].padding)) - before).norm()))
    assert 0 < moved[0] < moved[1]


def test_clusters_made_anew_are_the_nearest_and_corrections_bring_vectors_closer():
    method = make("cce")
    train(method, steps=100)
    ids, tier, row = method.ranks.tracked()
    before = vectors_of(method, ids)
    hashes = method.corrections_of(ids)
    method.recluster()
    assert not np.array_equal(method.corrections_of(ids), hashes)
    after, parts = vectors_of(method, ids), 4
    tables, rows = method.locate(ids, tier, row)
    assert (tables == 1).all()
    centroids = torch.cat([method.tables[1].gather(rows[:, part].copy()) for part in range(parts)], dim=1)
    for part in range(parts):
        first, columns = part * method.num_centroids, slice(4 * part, 4 * part + 4)
        own = method.tables[1].gather(np.arange(first, first + method.num_centroids))
        distances = torch.cdist(before[:, columns], own)
        chosen = distances[np.arange(len(ids)), method.codes[row, part]]
        assert torch.allclose(chosen, distances.amin(dim=1), atol=1e-5)
    weights = torch.from_numpy(method.ranks.hot_set.sketch.query((ids + 1).view(np.uint64)))[:, None]
    alone, corrected = (float((weights * (one - before).square()).sum()) for one in (centroids, after))
    assert corrected < alone


@pytest.mark.parametrize("agreement", [-1.0, 0.0, 0.5, 1.0])
def test_features_share_blocks_as_often_as_they_occur_together(agreement):
    """The second feature of a pair occurs where the first does, where it does not (-1), or by chance (0)."""
    method, pairs, rng = make("scma", parts=16.0), 12, np.random.default_rng(1)
    ids = np.arange(2 * pairs)
    move(method, ids, COLD, 0)
    method._num_fields = 2 * pairs  # noqa: SLF001
    first = rng.random((300, pairs)) < 0.5
    second = np.where(
        rng.random((300, pairs)) < abs(agreement), first == (agreement > 0), rng.random((300, pairs)) < 0.5
    )
    for row in np.concatenate([first, second], axis=1):
        method.sign(np.where(row, ids, 400))
    method.place()
    _, blocks = method.locate(ids, *method.ranks.find(ids))
    jaccard = (first & second).sum() / (first | second).sum()
    shared = (blocks[:pairs] == blocks[pairs:]).mean()
    assert (abs(shared - jaccard) < 0.1, jaccard == 0) == (True, agreement == -1), (jaccard, shared)


def test_signatures_only_fall_and_addresses_stay_once_they_are_fixed():
    method = make("scma")
    ids = np.arange(8)
    move(method, ids, COLD, 0)
    method._num_fields, rng, before = 4, np.random.default_rng(0), method.signatures.copy()  # noqa: SLF001
    hashed = method.locate(ids, *method.ranks.find(ids))[1]
    for _ in range(30):
        method.sign(rng.integers(0, 6, 4))
        assert (method.signatures <= before).all()
        before = method.signatures.copy()
    assert np.array_equal(method.locate(ids, *method.ranks.find(ids))[1], hashed)
    method.place()
    fixed = method.locate(ids, *method.ranks.find(ids))[1]
    assert (fixed != hashed).any(axis=1).tolist() == [True] * 6 + [False] * 2  # 6 and 7 did not occur
    method.sign(np.repeat(ids, 4))
    assert np.array_equal(method.locate(ids[:6], *method.ranks.find(ids[:6]))[1], fixed[:6])
