import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Keeps the newest state of every participation from promotion-status.
 *
 * <p>A null value means that the client's data was erased, so the key is removed from the state. Unknown
 * types of events are stored like any other, because every event carries the whole state.
 *
 * <p>KAFKA_BROKERS and STATUS_TOPIC name the topic. With --once it stops where the topic ended when
 * it started, and prints the state; otherwise it goes on and prints every change.
 *
 * <p>The state is in memory, so it reads from the beginning every time. To keep it in a
 * database, see docs/subscriber-guide.md.
 */
public final class Subscriber {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        boolean once = List.of(arguments).contains("--once");
        String topic = System.getenv().getOrDefault("STATUS_TOPIC", "promotion-status");
        Properties settings = new Properties();
        settings.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG,
                System.getenv().getOrDefault("KAFKA_BROKERS", "localhost:9092"));
        settings.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        // without this, events of aborted transactions would be seen
        settings.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        Map<String, JsonNode> newest = new TreeMap<>();
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                    .map(partition -> new TopicPartition(topic, partition.partition()))
                    .toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (!once || partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
                    if (record.value() == null) {
                        if (newest.remove(record.key()) != null && !once) {
                            System.out.println(record.key() + " forgotten");
                        }
                    } else if (keep(newest, record.key(), JSON.readTree(record.value())) && !once) {
                        System.out.println(line(record.key(), newest.get(record.key())));
                    }
                }
            }
        }
        newest.forEach((key, event) -> System.out.println(line(key, event)));
    }

    /** Takes an event that is newer than what is known; a redelivered or older one changes nothing. */
    private static boolean keep(Map<String, JsonNode> newest, String key, JsonNode event) {
        JsonNode known = newest.get(key);
        if (known != null && event.get("version").asInt() <= known.get("version").asInt()) {
            return false;
        }
        newest.put(key, event);
        return true;
    }

    private static String line(String key, JsonNode event) {
        return "%s version %d %s %d/%d".formatted(key, event.get("version").asInt(), event.get("status").asText(),
                event.get("rides_completed").asInt(), event.get("rides_target").asInt());
    }
}
