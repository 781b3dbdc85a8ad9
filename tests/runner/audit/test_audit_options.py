"""Options of an audit that do not go together are refused in one line."""

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.audit.options import AuditConfig, resolved

REFUSED = {
    "compares with shadow models": {"attacks": "loss,lira-online"},
    "did you mean 'loss'": {"attacks": "los"},
    "goes with the attacks lira-online and lira-offline, not with loss": {
        "attacks": "loss",
        "shadow_runs": 4,
    },
    "an outsider has no client's upload": {"client": 0},
    "members of the final model": {"non_members": "clients"},
    "--shadow-runs is 3: it must be 0, or an even number": {"shadow_runs": 3},
    "--shadow-runs is 2: it must be 0, or an even number": {"shadow_runs": 2},
    "--examples is 3: it must be at least 4": {"examples": 3},
    "--threat": {"threat": "nobody"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_options_that_cannot_be_are_refused(message):
    with pytest.raises(InputError, match=message):
        resolved(AuditConfig(**REFUSED[message]))


def test_all_attacks_that_are_possible_are_the_default():
    assert resolved(AuditConfig()).attacks == "loss,gradient,layer"
    assert resolved(AuditConfig(shadow_runs=4)).attacks.endswith("lira-offline")


def test_attacks_have_one_order_and_one_spelling():
    config = AuditConfig(attacks="LIRA_offline, loss,loss", shadow_runs=4)
    assert resolved(config).attacks == "loss,lira-offline"
