"""One running peer: the only place with asyncio, grpc, hivemind, threads, clocks and files."""
