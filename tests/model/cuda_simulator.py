"""NeMo's own CUDA kernels for RNN-T and TDT, run without a GPU by numba's simulator:
`cuda_simulator.py CASES ANSWERS` (pickles).

Needs its own process: the simulator must be chosen before numba's import. The order of kernels and
what follows them is that of `GPUTDT.compute_cost_and_score` and `GPURNNT.compute_cost_and_score`
(nemo/collections/asr/parts/numba/rnnt_loss/utils/cuda_utils/ gpu_rnnt.py, 3.0.0). A case is a dict
of acts (B, T, U + 1, V + 1 [+ D]), labels, act_lens, label_lens, durations, sigma, clamp,
fastemit_lambda, plain (the omega branch); the answer is costs (B) and their summed gradient with
respect to acts.
"""

import importlib.util
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np


def load_kernels():
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
    # Empty packages in the way, so that nemo's own __init__ files (ten seconds of imports) do not
    # run.
    root = Path(importlib.util.find_spec("torch").origin).parents[1]
    parts = ["nemo", "collections", "asr", "parts", "numba", "rnnt_loss", "utils", "cuda_utils"]
    for depth in range(1, len(parts) + 1):
        package = types.ModuleType(".".join(parts[:depth]))
        package.__path__ = [str(root.joinpath(*parts[:depth]))]
        sys.modules[package.__name__] = package
    return importlib.import_module(".".join(parts) + ".gpu_rnnt_kernel")


def log_softmax(x):
    x = x - x.max(-1, keepdims=True, initial=-np.inf)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def solve(
    kernels, acts, labels, act_lens, label_lens, durations, sigma, clamp, fastemit_lambda, plain
):
    batch, frames, width, columns = acts.shape
    num = columns - len(durations)
    tokens = np.ascontiguousarray(acts[..., :num]).reshape(-1)
    lasting = log_softmax(acts[..., num:]).reshape(-1)
    denom = -np.log(np.exp(acts[..., :num]).sum(-1)).reshape(-1)
    alphas, betas = (np.zeros(batch * frames * width, np.float32) for _ in range(2))
    forward, backward = (np.zeros(batch, np.float32) for _ in range(2))
    token_grads, lasting_grads = np.zeros_like(tokens), np.zeros_like(lasting)
    shape = (act_lens, label_lens, labels, batch, frames, width, num, num - 1)
    steps, cells = (batch, width), (batch * frames * width, num)
    if plain or not durations:
        kernels.compute_alphas_kernel[steps](tokens, denom, alphas, forward, *shape)
        kernels.compute_betas_kernel[steps](tokens, denom, betas, backward, *shape)
        kernels.compute_grad_kernel[cells](
            token_grads, tokens, denom, alphas, betas, forward, *shape, fastemit_lambda, clamp
        )
    else:
        lags = (np.array(durations), len(durations))
        kernels.compute_tdt_alphas_kernel[steps](
            tokens, lasting, denom, sigma, alphas, forward, *shape, *lags
        )
        kernels.compute_tdt_betas_kernel[steps](
            tokens, lasting, denom, sigma, betas, backward, *shape, *lags
        )
        kernels.compute_tdt_grad_kernel[cells](
            token_grads,
            lasting_grads,
            tokens,
            lasting,
            denom,
            sigma,
            alphas,
            betas,
            forward,
            *shape,
            *lags,
            fastemit_lambda,
            clamp,
        )
    # TDTLossNumba.forward leaves the softmax of the durations to autograd.
    lasting_grads = lasting_grads.reshape(*acts.shape[:3], -1)
    lasting_grads = lasting_grads - np.exp(
        lasting.reshape(lasting_grads.shape)
    ) * lasting_grads.sum(-1, keepdims=True)
    return -forward * (1 + fastemit_lambda), np.concatenate(
        [token_grads.reshape(*acts.shape[:3], num), lasting_grads], -1
    )


if __name__ == "__main__":
    loaded = load_kernels()
    cases = pickle.loads(Path(sys.argv[1]).read_bytes())
    Path(sys.argv[2]).write_bytes(pickle.dumps([solve(loaded, **case) for case in cases]))
