"""Names, order and hash of the columns, and the Guard's squeeze."""

from __future__ import annotations

import numpy as np
import pytest

from services.features import squeeze
from services.features.schema import Schema, alpha_schema, guard_schema, risk_schema
from services.inference.chain import guard_observation
from tests.features.conftest import SYMBOLS


def test_schemas_have_the_columns_that_models_are_trained_on() -> None:
    """140, 165 and 105, each name once."""
    schemas = (alpha_schema(SYMBOLS), risk_schema(SYMBOLS), guard_schema(SYMBOLS))
    assert [schema.id for schema in schemas] == ["alpha-140/1", "risk-165/1", "guard-105/1"]
    assert [len(set(schema.names)) for schema in schemas] == [140, 165, 105]


def test_named_columns_stand_where_models_expect_them() -> None:
    """25k + j and 20k + j, then the global ones."""
    alpha, risk, guard = (schema(SYMBOLS).names for schema in (alpha_schema, risk_schema, guard_schema))
    assert (alpha[0], alpha[38], alpha[124]) == ("EURUSD.close", "GBPUSD.has_position", "XAUUSD.rank")
    assert (alpha[125], alpha[128], alpha[139]) == ("equity", "num_open_positions", "session_overlap")
    assert risk[:140] == alpha
    assert (risk[140], risk[145], risk[150]) == (
        "candidate.equity",
        "candidate.result_1",
        "candidate.sl_mult_1",
    )
    assert risk[164] == "candidate.risk_fraction_5"
    assert (guard[35], guard[99], guard[104]) == ("GBPUSD.action", "XAUUSD.rr", "exposure")


@pytest.mark.parametrize("kind", [alpha_schema, risk_schema, guard_schema])
def test_hash_changes_with_order_and_scaling(kind: type[Schema]) -> None:
    """A model loads only if its columns are these."""
    schema = kind(SYMBOLS)
    assert schema.tag == f"{schema.id}:{schema.sha256}"
    assert kind(SYMBOLS[::-1]).sha256 != schema.sha256
    assert Schema(schema.id, schema.names, ("other", *schema.scalings[1:])).sha256 != schema.sha256


def test_market_squeeze_by_hand() -> None:
    """One value inside each clip, then one far outside on either side."""
    raw = np.array([2.5, 1.6, 40, 0.5, 0.1, 0.05, 75, 0.3, 0.0006, 0.01, 0.4, 1, 2, -2.5, 0.01])
    squeezed = squeeze.squeeze_market(raw, np.array(0.0004))
    expected = [0.5, 0.5, 0.4, 0.5, 0.5, 0.5, 0.5, 0.3, 0.5, 0.2, 0.4, 0.2, 0.4, -0.5, 0.5]
    np.testing.assert_allclose(squeezed, expected, rtol=1e-12)
    high = squeeze.squeeze_market(np.full(15, 1e6), np.array(1.0))
    assert np.delete(high, [2, 6]).tolist() == [1.0] * 13  # these two are bounded by what they are
    low = squeeze.squeeze_market(np.full(15, -1e6), np.array(1.0))
    assert np.delete(low, [2, 6]).tolist() == [0, 0, 0, -1, 0, 0, -1, -1, 0, 0, 0, -1, 0]


def test_macd_of_a_market_without_range_is_its_limit() -> None:
    """Infinity never leaves, and 0 in no range is 0."""
    raw = np.zeros((3, 15))
    raw[:, 8] = [0.1, -0.1, 0.0]
    assert squeeze.squeeze_market(raw, np.zeros(3))[:, 8].tolist() == [1, -1, 0]


def test_candidate_squeeze_by_hand() -> None:
    """A short held for 5 bars, a stop of 0.5 % and a target of twice that."""
    rr = squeeze.reward_to_risk(20.0, 10.0)
    got = squeeze.squeeze_candidate(-1, 5, 0, squeeze.stop_percent(10.0, 2000.0), rr)
    np.testing.assert_allclose(got, [-1, 0.5, 0, 0.25, 0.5], rtol=1e-6)
    assert squeeze.squeeze_candidate(1, 20, 1, 9.0, 9.0).tolist() == [1, 1, 1, 1, 1]
    assert squeeze.squeeze_candidate(np.zeros((3, 5)), 0, 0, 0, 0).shape == (3, 5, 5)


def test_account_squeeze_by_hand() -> None:
    """Drawdown is a fraction; five times the equity in margin is the end of the scale."""
    assert squeeze.squeeze_account(0.25, 2.5) == (0.25, 0.5)
    assert squeeze.squeeze_account(-0.1, 9.0) == (0, 1)


def test_candidate_columns_are_those_that_the_live_chain_fills_in() -> None:
    """One rule, whoever applies it: a model must be asked what it was trained on."""
    directions, previous = [1, 0, -1, 1, 0], [(1,) * 3, (), (1,), (-1, 1, 1), (1,)]
    stop, target, close = 0.3, 0.75, 150.0
    live = guard_observation(np.zeros(105), 2, directions, previous, stop, target, close)
    mine = np.zeros((5, 5))
    mine[:] = squeeze.squeeze_candidate(
        [0, 0, -1, 0, 0],
        [3, 0, 0, 2, 0],
        [0, 0, 1, 0, 0],
        [0, 0, squeeze.stop_percent(stop, close), 0, 0],
        [0, 0, squeeze.reward_to_risk(target, stop), 0, 0],
    )
    np.testing.assert_allclose(live[:100].reshape(5, 20)[:, 15:], mine, rtol=1e-12)
