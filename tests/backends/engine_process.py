"""Takes vLLM's command line and serves as the stand-in for it: what `up` is tried on."""

import argparse
import asyncio
import os
import signal
import sys

from gateway.standin.engine import Card, Vllm
from gateway.standin.standin import StandIn


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    known, _ = parser.parse_known_args()
    print("main", os.getpid(), flush=True)
    if "WITH_A_WORKER" in os.environ:
        worker = await asyncio.create_subprocess_exec("sleep", "600")
        print("worker", worker.pid, flush=True)
    print("starting with", " ".join(sys.argv[1:]), flush=True)
    if "FAILS_AT_START" in os.environ:
        print("torch.cuda.OutOfMemoryError: not enough of it", flush=True)
        raise SystemExit(3)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    card = Card() if known.enable_sleep_mode else None
    async with StandIn(vllm=Vllm(base=known.served_model_name, card=card), port=known.port):
        await ended.wait()


asyncio.run(main())
