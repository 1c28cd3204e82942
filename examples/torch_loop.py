"""Trains a small network in torch and hands it to smdaemon as it goes.

    python examples/torch_loop.py

Each save becomes a version that TensorFlow can load. Without arguments a daemon is started on a temporary directory.
"""

import sys

from scratch_daemon import SAVES, daemon, options, report

from smdaemon.handoff import attach

try:
    import torch
except ImportError:
    sys.exit(
        "this example needs torch, which is not installed; for a CPU:\n"
        "  pip install torch --index-url https://download.pytorch.org/whl/cpu"
    )

BATCH = 128


def main() -> None:
    """Learn a surface of two variables, and save four times on the way."""
    told = options(__doc__, steps=2000)
    torch.manual_seed(7)
    torch.set_num_threads(1)  # so small a network gains nothing by more
    network = torch.nn.Sequential(torch.nn.Linear(2, 256), torch.nn.Tanh(), torch.nn.Linear(256, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    handles = []
    with daemon(told) as place, attach(place.socket) as sidecar:
        sidecar.reserve(network.state_dict())
        for step in range(1, told.steps + 1):
            x = torch.rand(BATCH, 2) * 2 - 1
            loss = torch.nn.functional.mse_loss(network(x), torch.sin(3 * x[:, :1]) * x[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % (told.steps // SAVES) == 0:
                handles.append(sidecar.save(step, network.state_dict(), model=place.model, on_busy="wait"))
                print(f"step {step:5}  loss {loss.item():.4f}")
        report(handles)


if __name__ == "__main__":
    main()
