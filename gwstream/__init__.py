"""gwstream: posteriors of compact binaries from low-latency detector strain, streamed over MQTT."""

__version__ = "0.1.0"
