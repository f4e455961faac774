"""What needs torch: capturing what the layers of a model see while it runs.

    import arrowquant.torch

    with arrowquant.torch.capture(model, moments="block", when=lambda x, t, **_: t,
                                  edges=range(0, 1001, 50), domain="timestep") as seen:
        sample(model)
    seen.save("model.calib.arrow")

torch is not a dependency of this package: it is used where it is installed.
"""

from arrowquant.calibration.bins import edges_between
from arrowquant.torch.capture import Capture, capture

__all__ = ["Capture", "capture", "edges_between"]
