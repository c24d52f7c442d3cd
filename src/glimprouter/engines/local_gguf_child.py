"""The child process of `local_gguf.py`: runs llama.cpp's server until its parent lets go of it.

It is run as a script and imports nothing of this package, so that it starts fast. One JSON object comes in on standard
input, one goes out on standard output when the server listens; end of input ends the process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any


def main() -> None:
    settings = json.loads(sys.stdin.buffer.readline())
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints is no reply
    _die_with_parent(settings["parent"], signal.SIGKILL)
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()

    import xllamacpp

    try:
        server = xllamacpp.Server(_parameters(xllamacpp, settings))
    except RuntimeError:
        sys.stderr.flush()
        os._exit(1)  # the library has said why
    _die_with_parent(settings["parent"], 0)
    json.dump({"url": server.listening_address}, reply)
    reply.write("\n")
    reply.close()
    threading.Event().wait()


def _exit_at_end_of_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _die_with_parent(parent: int, with_signal: int) -> None:
    """Have the kernel watch: the interpreter lock is held while a model loads, so that the thread above sleeps.

    For no longer than that: the kernel watches the parent's thread, which may well end before the parent does.
    """
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, with_signal, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _parameters(xllamacpp: Any, settings: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.ui = False
    params.endpoint_slots = True
    params.verbosity = 1  # errors only
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["context_tokens"] * settings["parallel"]  # the server divides it among its slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.n_gpu_layers = settings["gpu_layers"]
    params.warmup = settings["warmup"]
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.prefill_assistant = False
    params.ctx_shift = False
    if settings["draft"]:
        draft = params.speculative.draft
        draft.mparams.path = settings["draft"]
        draft.n_max = settings["speculate"]
        draft.p_min = settings["sure"]
        draft.n_gpu_layers = settings["gpu_layers"]
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = settings["draft_threads"]
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    if settings["exact"]:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return params


if __name__ == "__main__":
    main()
