"""The Kafka side of hotstream: keys, records, topics, replay, the sketch agent, and subscribing."""
