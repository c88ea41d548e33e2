"""The format for NeuroSim: the network, its weights, and the activations of its layers for one sample."""
