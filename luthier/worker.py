"""One of several processes that train a run together, started by `luthier.launch`.

What goes in: the folder with the job. What comes out: rank 0's events and how the process ended, as files there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from luthier import launch
from luthier.config import load as config_load
from luthier.engine import backend
from luthier.errors import LuthierError, PeerLost
from luthier.runs.events import Event
from luthier.runs.store import RunFolder
from luthier.text import set_language
from luthier.training import carry_out


def main(place_of_job: str) -> None:
    folder = Path(place_of_job)
    order = launch.Order.load(folder)
    place = backend.placed()
    assert place is not None, "started by luthier.launch"
    set_language(order.language)
    config = config_load.loads(order.recipe, "recipe")
    original = RunFolder.open(order.original) if order.original else None
    with open(folder / launch.EVENTS, "a", encoding="utf-8") as log:

        def note(event: Event) -> None:
            log.write(json.dumps(event.to_json(), ensure_ascii=False) + "\n")
            log.flush()

        try:
            carry_out(config, note, plan=order.plan, original=original)
        except PeerLost as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(launch.PEER_LOST)  # what is left of the connections may abort an orderly exit
        except LuthierError as error:
            launch.tell(folder, place.rank, error)
            log.flush()
            os._exit(0)  # told; a code would have the others ended before they have saved
