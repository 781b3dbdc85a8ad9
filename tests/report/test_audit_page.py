"""The page of an audit says all its figures and shows its curves."""

import json
from xml.etree import ElementTree

import numpy as np

from fedsparsify_jax.report.audit import write_page


def written(directory, **more):
    interval = {"estimate": 0.75, "low": 0.5, "high": 0.875}
    attack = {
        "about": "minus the loss",
        "members": 1200,
        "others": 500,
        "auc": interval,
        "advantage": interval,
        "tpr": {"0.001": None, "0.01": interval},
    }
    content = {
        "run": "runs/<b>one",
        "dataset": "digits",
        "algorithm": "fedavg",
        "threat": "outsider",
        "client": None,
        "pool": {"members": 1200, "others": 500},
        "attacks": {"loss": attack},
        "notes": ["there are too few"],
        "seed": 7,
        "commit": None,
        "dirty": None,
        "versions": {"jax": "9.9"},
    }
    (directory / "audit.json").write_text(json.dumps(content | more))
    rates = np.array([0.0, 0.002, 0.5, 1.0])
    np.savez(directory / "roc.npz", **{"loss/fpr": rates, "loss/tpr": rates**0.5})
    return write_page(directory).read_text()


def test_the_page_has_every_figure(tmp_path):
    text = written(tmp_path)
    assert r"| loss | 0.750 \[0.500, 0.875\] |" in text and "| too few |" in text
    assert "an outsider" in text and "* there are too few\n" in text
    assert "minus the loss; 1,200 members, 500 others" in text
    assert "seed 7, commit unknown, jax 9.9" in text
    assert r"runs/\<b\>one" in text  # names of files are no markup


def test_the_page_names_the_client_and_the_shadow_models(tmp_path):
    shadows = {"number": 16, "examples": 850, "score": "phi"}
    text = written(tmp_path, threat="server", client=3, shadows=shadows)
    assert "an upload of client 3" in text
    assert "16 shadow models of 850 examples each; the model attacked has" in text


def test_the_curves_are_drawn_twice_with_a_line_for_guesses(tmp_path):
    written(tmp_path)
    tree = ElementTree.parse(tmp_path / "roc.svg")
    words = [node.text for node in tree.iter() if node.tag.endswith("text")]
    assert words.count("loss") == words.count("guess") == 2
    assert {"ROC", "FPR (%)", "log10 FPR"} <= set(words)
