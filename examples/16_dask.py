"""Simulate chips on a cluster: the figures are those of one machine, bit for bit. `pip install '.[dask]'`."""

from distributed import Client, LocalCluster

import onnx_gconv as gconv
from onnx_gconv.models import model_path


def main() -> None:
    """Processes of a cluster import this file, so that the work stands in a function."""
    gconv.map_model(model_path("digits_mlp.onnx"), "mapped.onnx", g_max=25.0)
    chips = {"times": ["1d"], "repeats": 4}
    here = gconv.simulate("mapped.onnx", "pcm", **chips)
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        there = gconv.simulate("mapped.onnx", "pcm", **chips, dask=client)
    print(here.times[0].values == there.times[0].values)


if __name__ == "__main__":
    main()

# Output:
# True
