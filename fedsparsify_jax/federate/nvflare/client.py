"""The program of a site: NVFlare's Client API around `site.Site`.

NVFlare copies this file into jobs, and runs it at every site.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nvflare.client as flare

from fedsparsify_jax.federate.nvflare.models import content_of, model_from
from fedsparsify_jax.federate.nvflare.site import Site


def main(arguments: Sequence[str] | None = None) -> None:
    """Answers models until the job ends.

    Args:
      arguments: words of the job; those of the process by default.
    """
    parser = argparse.ArgumentParser(description="A site of a federation.")
    parser.add_argument("--data", help="JSON file with options of the site's own data")
    parser.add_argument("--state", type=Path, help="directory of what the site keeps")
    options = parser.parse_args(arguments)
    flare.init()
    name = flare.get_site_name()
    site = Site(name, _own(options.data, name), options.state)
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        content = content_of(model, "down")
        answer = site.answer(content)
        down = {"bytes_down": content.facts["bytes_down"]}
        flare.send(model_from(answer._replace(facts={**answer.facts, **down})))


def _own(path: str | None, name: str) -> dict[str, Any]:
    """Returns the options in a site's file; ``{site}`` in its path is the name."""
    if path is None:
        return {}
    text = Path(path.replace("{site}", name)).read_text(encoding="utf-8")
    options: dict[str, Any] = json.loads(text)
    return options


if __name__ == "__main__":
    main()
