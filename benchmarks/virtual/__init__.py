"""Real peers on a virtual clock, in one thread: everything but the network, the time and the disk's
place is what `diloco-peer join` runs."""
