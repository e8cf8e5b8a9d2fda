// Keeps the newest state of every participation from promotion-status.
//
// A null value means that the client's data was erased, so the key is removed from the state. Unknown types of
// events are stored like any other, because every event carries the whole state.
//
// KAFKA_BROKERS and STATUS_TOPIC name the topic. With --once it stops where the topic ended when it
// started, and prints the state; otherwise it goes on and prints every change.
//
// The state is in memory, so it reads from the beginning every time. To keep it in a database,
// see docs/subscriber-guide.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Event has what this program needs of a status event; there is more in it.
type Event struct {
	Version        int    `json:"version"`
	Status         string `json:"status"`
	RidesCompleted int    `json:"rides_completed"`
	RidesTarget    int    `json:"rides_target"`
}

func main() {
	once := slices.Contains(os.Args[1:], "--once")
	topic := setting("STATUS_TOPIC", "promotion-status")
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(setting("KAFKA_BROKERS", "localhost:9092"), ",")...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// without this, events of aborted transactions would be seen
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// the last record of a partition usually is the end of a transaction, no event
		kgo.KeepControlRecords(),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx := context.Background()
	ends, err := kadm.NewClient(client).ListCommittedOffsets(ctx, topic)
	if err != nil {
		log.Fatal(err)
	}
	unread := map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		if end.Offset > 0 {
			unread[end.Partition] = end.Offset
		}
	})

	newest := map[string]Event{}
	for len(unread) > 0 || !once {
		fetches := client.PollFetches(ctx)
		if errs := fetches.Errors(); len(errs) > 0 {
			log.Fatalf("cannot read %s: %v", topic, errs[0].Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if record.Offset+1 >= unread[record.Partition] {
				delete(unread, record.Partition)
			}
			if record.Attrs.IsControl() {
				return
			}
			key := string(record.Key)
			if record.Value == nil {
				if _, known := newest[key]; known && !once {
					fmt.Println(key, "forgotten")
				}
				delete(newest, key)
				return
			}
			var event Event
			if err := json.Unmarshal(record.Value, &event); err != nil {
				log.Fatalf("not a status event at %d:%d: %v", record.Partition, record.Offset, err)
			}
			if keep(newest, key, event) && !once {
				fmt.Println(line(key, event))
			}
		})
	}
	for _, key := range slices.Sorted(maps.Keys(newest)) {
		fmt.Println(line(key, newest[key]))
	}
}

// keep takes an event that is newer than what is known; a redelivered or older one changes nothing.
func keep(newest map[string]Event, key string, event Event) bool {
	if known, there := newest[key]; there && event.Version <= known.Version {
		return false
	}
	newest[key] = event
	return true
}

func line(key string, event Event) string {
	return fmt.Sprintf("%s version %d %s %d/%d", key, event.Version, event.Status, event.RidesCompleted, event.RidesTarget)
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
