"""The program of a site: NVFlare's Client API around `site.Site`.

NVFlare copies this file into jobs, and runs it at every site.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import nvflare.client as flare

from fedsparsify_jax.federate.nvflare.models import content_of, model_from
from fedsparsify_jax.federate.nvflare.site import Site


def main(arguments: Sequence[str] | None = None) -> None:
    """Answers models until the job ends.

    Args:
      arguments: words of the job; those of the process by default, which are quoted as
        in addresses, because NVFlare divides them at spaces.
    """
    parser = argparse.ArgumentParser(description="A site of a federation.")
    parser.add_argument("--data", help="JSON file with options of the site's own data")
    parser.add_argument("--state", type=Path, help="directory of what the site keeps")
    words = map(unquote, sys.argv[1:]) if arguments is None else arguments
    options = parser.parse_args(list(words))
    flare.init()
    site = Site(flare.get_site_name(), options.data, options.state)
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        content = content_of(model, "down")
        answer = site.answer(content)
        down = {"bytes_down": content.facts["bytes_down"]}
        flare.send(model_from(answer._replace(facts={**answer.facts, **down})))


if __name__ == "__main__":
    main()
