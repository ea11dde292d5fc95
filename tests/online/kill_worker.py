"""Workers to be killed: imports once, then forks a worker for each line that it reads, and says its process id."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from tqdm import tqdm


def work(folder: Path, store_url: str, log_url: str) -> None:
    from tests.online.uploads import SumFolder, pipeline
    from tests.online.worlds import opened
    from tests.understand.fake import FakeCaptioner

    from captionary.online.log import open_log
    from captionary.online.visible import ItemColumns
    from captionary.online.worker import IngestWorker, WorkerOptions

    worker = IngestWorker(
        open_log(log_url),
        opened(store_url),
        pipeline(folder, FakeCaptioner(seconds=0.002)),
        folders=[SumFolder()],
        columns=ItemColumns(numeric=("price",)),
        options=WorkerOptions(lease_seconds=0.15, retry_seconds=0.01, events_at_once=7, target_seconds=0.02),
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()


def warm() -> None:
    """Work once, so that what is imported and compiled when first needed is there in every worker."""
    from tests.online.uploads import SumFolder, picture, pipeline, upload
    from tests.online.worlds import events_of, opened
    from tests.understand.fake import FakeCaptioner

    from captionary.online.log import EVENTS, MEDIA, event_draft, media_draft, open_log
    from captionary.online.worker import IngestWorker

    with tempfile.TemporaryDirectory() as scratch, opened(f"{scratch}/store") as store:
        log = open_log(f"{scratch}/log.sqlite")
        made = pipeline(Path(scratch), FakeCaptioner())
        log.append(EVENTS, [event_draft(event, str(n)) for n, event in enumerate(events_of(20))])
        log.append(MEDIA, [media_draft(upload(1, made.spool.put(picture(1))), "one")])
        IngestWorker(log, store, made, folders=[SumFolder()]).run(drain=True)
        made.store.close()
        log.close()


def main() -> None:
    folder, store_url, log_url = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    from tests.online import uploads, worlds  # noqa: F401

    from captionary.online.keyvalue import StoreUnavailableError
    from captionary.online.log import LogUnavailableError

    warm()
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            # tqdm's lock is one for all forks of a process: killed with it in hand, one would hold up all others.
            tqdm.set_lock(threading.RLock())
            try:
                while True:
                    try:
                        work(Path(folder), store_url, log_url)
                        break
                    except (LogUnavailableError, StoreUnavailableError):  # while it was opening them
                        time.sleep(0.02)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main()
