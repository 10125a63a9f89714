"""The messages on the wire: diloco.proto, its generated stubs, and the codec between."""
