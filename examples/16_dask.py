"""Simulate chips on a Dask cluster, with the same results as in one process. Needs `pip install '.[dask]'`."""

from distributed import Client, LocalCluster

import onnx_gconv as gconv
from onnx_gconv.models import model_path


def main() -> None:
    """Do the work in a function: the processes of the cluster import this file, and must not do it again."""
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
