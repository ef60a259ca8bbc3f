import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONObject;
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;

/**
 * The official push consumer: parses every envelope and the JSON inside its content, reads user_nick, and prints
 * after N messages what that cost. The peer that the bridge's own client is measured against.
 *
 * <p>{@code --name-server host:port --topic T --group G --messages N [--pull-batch 32] [--consume-batch 1] [--threads 20]
 * [--timeout 120] [--warm-up 0] [--broadcasting] [--namespace MQ_INST_x]}; the defaults are the client's own. Seconds
 * run from the first message to the last of the N; those of the warm-up come before and count for nothing, so that a
 * compiled program is measured.
 */
public final class Consume {
    private static final OperatingSystemMXBean SYSTEM =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final long warmUp;
    private final long wanted;
    private final AtomicLong seen = new AtomicLong();
    private final AtomicLong nickCharacters = new AtomicLong();
    private final CountDownLatch done = new CountDownLatch(1);
    private volatile long seenAtFirst;
    private volatile long firstAt;
    private volatile long firstCpu;
    private volatile long seenAtLast;
    private volatile long lastAt;
    private volatile long lastCpu;

    private Consume(long warmUp, long messages) {
        this.warmUp = warmUp;
        this.wanted = warmUp + messages;
    }

    public static void main(String[] words) {
        try {
            Arguments arguments = new Arguments(words);
            Consume consume = new Consume(arguments.number("warm-up", 0), arguments.number("messages", 0));
            DefaultMQPushConsumer consumer = consume.start(arguments);
            boolean complete = consume.done.await(arguments.number("timeout", 120), TimeUnit.SECONDS);
            if (!complete) {
                System.err.println("only " + consume.seen.get() + " of " + consume.wanted + " messages came in time");
                System.exit(1);
            }
            JSONObject report = consume.report();
            consumer.shutdown();
            System.out.println(report);
            System.exit(0);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private DefaultMQPushConsumer start(Arguments arguments) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(arguments.required("group"));
        consumer.setNamesrvAddr(arguments.required("name-server"));
        consumer.setMqClientApiTimeout(30_000); // a loaded machine is no reason to fail
        consumer.setAwaitTerminationMillisWhenShutdown(30_000); // so that the last messages are committed
        if (arguments.has("namespace")) {
            consumer.setNamespace(arguments.required("namespace"));
        }
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setPullBatchSize(arguments.number("pull-batch", consumer.getPullBatchSize()));
        consumer.setConsumeMessageBatchMaxSize(
                arguments.number("consume-batch", consumer.getConsumeMessageBatchMaxSize()));
        if (arguments.has("threads")) {
            consumer.setConsumeThreadMin(arguments.number("threads", 1));
            consumer.setConsumeThreadMax(arguments.number("threads", 1));
        }
        if (arguments.has("broadcasting")) {
            consumer.setMessageModel(MessageModel.BROADCASTING);
        }
        consumer.subscribe(arguments.required("topic"), "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> take(messages));
        consumer.start();
        return consumer;
    }

    private ConsumeConcurrentlyStatus take(List<MessageExt> messages) {
        if (firstAt == 0 && seen.get() >= warmUp) {
            markFirst();
        }
        long characters = 0;
        for (MessageExt message : messages) {
            JSONObject envelope = JSON.parseObject(message.getBody());
            JSONObject content = JSON.parseObject(envelope.getString("content"));
            String nick = envelope.getString("user_nick");
            characters += (nick == null ? 0 : nick.length()) + (content.isEmpty() ? 0 : 1);
        }
        nickCharacters.addAndGet(characters);
        long total = seen.addAndGet(messages.size());
        if (total >= wanted && total - messages.size() < wanted) {
            seenAtLast = total;
            lastCpu = SYSTEM.getProcessCpuTime();
            lastAt = System.nanoTime();
            done.countDown();
        }
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
    }

    private synchronized void markFirst() {
        if (firstAt == 0) {
            seenAtFirst = seen.get();
            firstCpu = SYSTEM.getProcessCpuTime();
            firstAt = System.nanoTime();
        }
    }

    private JSONObject report() throws Exception {
        long counted = seenAtLast - seenAtFirst;
        return new JSONObject()
                .fluentPut("messages", counted)
                .fluentPut("seconds", (lastAt - firstAt) / 1e9)
                .fluentPut("cpu_seconds", lastCpu / 1e9)
                .fluentPut("cpu_seconds_since_first", (lastCpu - firstCpu) / 1e9)
                .fluentPut("peak_rss_kb", peakRss())
                .fluentPut("nick_characters", nickCharacters.get());
    }

    private static long peakRss() throws Exception {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return Long.parseLong(line.replaceAll("\\D", ""));
            }
        }
        return 0;
    }
}
