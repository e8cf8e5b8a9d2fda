"""Sends clients a push message when a deadline comes near: prints it, in place of a push service.

Each reminder is sent once, although Kafka may deliver it again: a repeated one has the same event_id. One
whose deadline has passed is not sent.

KAFKA_BROKERS and REMINDER_TOPIC say where they are. The offset is committed after the message was sent.
With --once it ends where the topic ended when it started.
"""

import json
import os
import sys
from datetime import datetime, timezone

from confluent_kafka import Consumer, KafkaError, TopicPartition

REMEMBERED = 100_000


def main():
    once = "--once" in sys.argv[1:]
    topic = os.environ.get("REMINDER_TOPIC", "promotion-reminder")
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "localhost:9092"),
            "group.id": os.environ.get("GROUP_ID", "reminder-pushes"),
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            # without this, reminders of transactions that were aborted would be sent
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    unread = set(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    consumer.subscribe([topic])

    # in a real sender: the push service's own key against repeats, or a table
    sent = {}
    while unread or not once:
        record = consumer.poll(1.0)
        if record is None:
            continue
        if record.error() and record.error().code() == KafkaError._PARTITION_EOF:
            unread.discard(record.partition())
            continue
        if record.error():
            raise SystemExit(f"cannot read {topic}: {record.error()}")
        reminder = json.loads(record.value())
        if reminder["event_id"] not in sent and not is_over(reminder):
            print(push(reminder), flush=True)
        sent[reminder["event_id"]] = None
        if len(sent) > REMEMBERED:
            sent.pop(next(iter(sent)))
        consumer.commit(offsets=[TopicPartition(topic, record.partition(), record.offset() + 1)], asynchronous=False)
    consumer.close()


def is_over(reminder):
    deadline = datetime.fromisoformat(reminder["deadline"].replace("Z", "+00:00"))
    return datetime.now(timezone.utc) >= deadline


def push(reminder):
    if reminder["of"] == "CHALLENGE":
        left = reminder["rides_target"] - reminder["rides_completed"]
        rides = "1 ride" if left == 1 else f"{left} rides"
        text = f"{rides} to go until {reminder['deadline']}"
    else:
        text = f"Your reward is waiting: apply until {reminder['deadline']}"
    return f"to client {reminder['user_id']}: {text}"


if __name__ == "__main__":
    main()
