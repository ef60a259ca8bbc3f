import com.alibaba.fastjson2.JSONObject;
import java.io.BufferedReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Publishes many messages fast: message i goes to queue i modulo the queue count, in batches, from several threads.
 *
 * <p>{@code --name-server host:port --topic T --file LINES --messages N [--queues 8] [--threads 4] [--batch 64]}. The file
 * holds the JSON lines of {@link Publish}, whose topic is replaced by T; it is read again from its start when N is more.
 */
public final class Flood {
    private final DefaultMQProducer producer;
    private final String topic;
    private final ExecutorService pool;
    private final Semaphore waiting = new Semaphore(64);
    private final AtomicReference<Exception> failed = new AtomicReference<>();

    private Flood(Arguments arguments) throws Exception {
        producer = Producers.start(arguments.required("name-server"), arguments.number("queues", 8));
        topic = arguments.required("topic");
        pool = Executors.newFixedThreadPool(arguments.number("threads", 4));
    }

    public static void main(String[] words) {
        try {
            Arguments arguments = new Arguments(words);
            int messages = arguments.number("messages", 0);
            Flood flood = new Flood(arguments);
            long began = System.nanoTime();
            flood.send(Path.of(arguments.required("file")), messages, arguments.number("batch", 64));
            double seconds = (System.nanoTime() - began) / 1e9;
            System.out.println(new JSONObject().fluentPut("messages", messages).fluentPut("seconds", seconds));
            flood.producer.shutdown();
            System.exit(0);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private void send(Path file, int messages, int batchSize) throws Exception {
        List<MessageQueue> queues = null;
        List<List<Message>> batches = new ArrayList<>();
        int sent = 0;
        while (sent < messages) {
            int before = sent;
            try (BufferedReader lines = Files.newBufferedReader(file, StandardCharsets.UTF_8)) {
                for (String text = lines.readLine(); text != null && sent < messages; text = lines.readLine()) {
                    Message message = new Line(text).message;
                    message.setTopic(topic);
                    if (queues == null) {
                        queues = queuesAfterFirst(message);
                        queues.forEach(queue -> batches.add(new ArrayList<>()));
                    } else {
                        int slot = sent % queues.size();
                        batches.get(slot).add(message);
                        if (batches.get(slot).size() == batchSize) {
                            submit(batches.set(slot, new ArrayList<>()), queues.get(slot));
                        }
                    }
                    sent++;
                }
            }
            if (sent == before) {
                throw new IllegalArgumentException(file + " holds no line");
            }
        }
        for (int slot = 0; slot < batches.size(); slot++) {
            if (!batches.get(slot).isEmpty()) {
                submit(batches.get(slot), queues.get(slot));
            }
        }
        pool.shutdown();
        pool.awaitTermination(10, TimeUnit.MINUTES);
        if (failed.get() != null) {
            throw failed.get();
        }
    }

    /** A rmq_sys_ topic exists from its first send on, so the first message goes alone; then the route is awaited. */
    private List<MessageQueue> queuesAfterFirst(Message message) throws Exception {
        producer.send(message, (all, sent, wanted) -> Producers.queue(all, 0), null);
        long limit = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (true) {
            try {
                List<MessageQueue> queues = new ArrayList<>(producer.fetchPublishMessageQueues(topic));
                queues.sort(null);
                return queues;
            } catch (MQClientException noRoute) {
                if (System.nanoTime() > limit) {
                    throw noRoute;
                }
                TimeUnit.MILLISECONDS.sleep(20);
            }
        }
    }

    private void submit(List<Message> batch, MessageQueue queue) throws Exception {
        waiting.acquire();
        if (failed.get() != null) {
            throw failed.get();
        }
        pool.execute(() -> {
            try {
                producer.send(batch, queue);
            } catch (Exception failure) {
                failed.compareAndSet(null, failure);
            } finally {
                waiting.release();
            }
        });
    }
}
