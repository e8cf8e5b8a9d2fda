"""Keeps the newest state of every participation from promotion-status.

A null value means that the client's data was erased, so the key is removed from the state. Unknown types of
events are stored like any other, because every event carries the whole state.

KAFKA_BROKERS and STATUS_TOPIC name the topic. With --once it stops where the topic ended when it
started, and prints the state; otherwise it goes on and prints every change.

The state is in memory, so it reads from the beginning every time. To keep it in a database,
see docs/subscriber-guide.md.
"""

import json
import os
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition


def main():
    once = "--once" in sys.argv[1:]
    topic = os.environ.get("STATUS_TOPIC", "promotion-status")
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "localhost:9092"),
            # no group commits and no rebalancing: partitions are assigned below
            "group.id": "promotion-status-example",
            "enable.auto.commit": False,
            # without this, events of aborted transactions would be seen
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])

    newest = {}
    unread = set(partitions)
    while unread or not once:
        record = consumer.poll(1.0)
        if record is None:
            continue
        if record.error() and record.error().code() == KafkaError._PARTITION_EOF:
            unread.discard(record.partition())
        elif record.error():
            raise SystemExit(f"cannot read {topic}: {record.error()}")
        else:
            key = record.key().decode()
            if record.value() is None:
                if newest.pop(key, None) and not once:
                    print(f"{key} forgotten", flush=True)
            elif keep(newest, key, json.loads(record.value())) and not once:
                print(line(key, newest[key]), flush=True)
    consumer.close()
    for key in sorted(newest):
        print(line(key, newest[key]))


def keep(newest, key, event):
    """Takes an event that is newer than what is known; a redelivered or older one changes nothing."""
    if key in newest and event["version"] <= newest[key]["version"]:
        return False
    newest[key] = event
    return True


def line(key, event):
    return f"{key} version {event['version']} {event['status']} {event['rides_completed']}/{event['rides_target']}"


if __name__ == "__main__":
    main()
