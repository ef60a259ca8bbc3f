import com.alibaba.fastjson2.JSONObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.compression.CompressionType;

/**
 * Publishes the JSON lines of standard input, each synchronously, and prints one JSON line of totals at the end.
 *
 * <p>{@code --name-server host:port [--queues 8] [--threads 1] [--serve]}. With --serve every line is sent in order and
 * answered by one JSON line, in the same order, and a line that fails does not end the program.
 */
public final class Publish {
    private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

    private final DefaultMQProducer producer;
    private final int queues;

    private Publish(String nameServer, int queues) throws Exception {
        this.queues = queues;
        producer = Producers.start(nameServer, queues);
    }

    public static void main(String[] words) {
        try {
            Arguments arguments = new Arguments(words);
            Publish publish = new Publish(arguments.required("name-server"), arguments.number("queues", 8));
            BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            if (arguments.has("serve")) {
                publish.serve(input);
            } else {
                publish.sendAll(input, arguments.number("threads", 1));
            }
            publish.producer.shutdown();
            System.exit(0);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private void serve(BufferedReader input) throws Exception {
        OUT.println(new JSONObject().fluentPut("ready", true));
        OUT.flush();
        for (String text = input.readLine(); text != null; text = input.readLine()) {
            JSONObject answer = new JSONObject();
            try {
                SendResult sent = send(new Line(text));
                answer.put("broker", sent.getMessageQueue().getBrokerName());
                answer.put("queue", sent.getMessageQueue().getQueueId());
                answer.put("offset", sent.getQueueOffset());
                answer.put("message_id", sent.getOffsetMsgId());
            } catch (Exception failure) {
                answer.put("error", rootOf(failure).toString());
            }
            OUT.println(answer);
            OUT.flush();
        }
    }

    private void sendAll(BufferedReader input, int threads) throws Exception {
        long began = System.nanoTime();
        AtomicInteger sent = new AtomicInteger();
        AtomicReference<Exception> failed = new AtomicReference<>();
        Semaphore waiting = new Semaphore(1024);
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        for (String text = input.readLine(); text != null && failed.get() == null; text = input.readLine()) {
            Line line = new Line(text);
            waiting.acquire();
            pool.execute(() -> {
                try {
                    send(line);
                    sent.incrementAndGet();
                } catch (Exception failure) {
                    failed.compareAndSet(null, failure);
                } finally {
                    waiting.release();
                }
            });
        }
        pool.shutdown();
        pool.awaitTermination(10, TimeUnit.MINUTES);
        if (failed.get() != null) {
            throw failed.get();
        }
        double seconds = (System.nanoTime() - began) / 1e9;
        OUT.println(new JSONObject().fluentPut("messages", sent.get()).fluentPut("seconds", seconds));
        OUT.flush();
    }

    private SendResult send(Line line) throws Exception {
        if (line.queues == null && line.compression == null) {
            return sendAsSet(line);
        }
        synchronized (this) { // these settings belong to the producer, not to one message
            int threshold = producer.getCompressMsgBodyOverHowmuch();
            try {
                producer.setDefaultTopicQueueNums(line.queues == null ? queues : line.queues);
                if (line.compression != null) {
                    producer.setCompressType(CompressionType.of(line.compression));
                    producer.setCompressMsgBodyOverHowmuch(0);
                }
                return sendAsSet(line);
            } finally {
                producer.setDefaultTopicQueueNums(queues);
                producer.setCompressType(CompressionType.ZLIB);
                producer.setCompressMsgBodyOverHowmuch(threshold);
            }
        }
    }

    private static Throwable rootOf(Throwable failure) {
        return failure.getCause() == null ? failure : rootOf(failure.getCause());
    }

    private SendResult sendAsSet(Line line) throws Exception {
        SendResult result = line.queue == null
                ? producer.send(line.message)
                : producer.send(line.message, (all, message, wanted) -> Producers.queue(all, (Integer) wanted), line.queue);
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException("the broker answered " + result.getSendStatus());
        }
        return result;
    }
}
